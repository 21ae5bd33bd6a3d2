"""The table of all that a run writes is the one in the docs, and its limits are limits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from dougong.deadlines import Deadlines
from dougong.storage.writers import HEAD, WRITERS

PAGE = Path(__file__).parents[2] / "docs" / "design" / "storage.md"


def test_the_docs_show_the_table() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    expected = [HEAD, ("---",) * len(HEAD), *(writer.cells for writer in WRITERS)]
    assert [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows] == expected


def test_every_limit_is_a_deadline() -> None:
    known = {field.name for field in dataclasses.fields(Deadlines)}
    for writer in WRITERS:
        assert set(re.findall(r"\w+_s\b", writer.deadline)) <= known
