"""The tables of docs/accelerators.md are those of the code, whole, and free of what would break a table."""

from pathlib import Path

import pytest
from dougong.accelerators.registry import BUILT_IN
from dougong.accelerators.table import fill, tables

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accelerators.md"


def test_the_page_is_up_to_date() -> None:
    """If not: python schema/update.py."""
    assert fill(PAGE.read_text()) == PAGE.read_text()


def test_every_kind_has_a_row_with_its_standing() -> None:
    rows = [row for row in tables().splitlines() if row.startswith("| `")]
    for kind in BUILT_IN:
        assert any(row.startswith(f"| `{kind.name}` | {kind.title} | {kind.standing} |") for row in rows)


def test_rows_are_as_wide_as_their_heads() -> None:
    for part in tables().split("\n\n"):
        assert len({row.count("|") for row in part.splitlines()}) == 1


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        fill("# Accelerators\n")
