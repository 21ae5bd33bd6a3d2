"""docs/trust.md: every row says what one is told or kept, and names a test that is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRUST = ROOT / "docs" / "trust.md"
HEAD = ["what can go wrong", "what you are told", "what is kept", "test"]
PLACE = re.compile(r"`([\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = [line for line in TRUST.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row != HEAD and set(row) != {"---"}]


@functools.cache
def names_in(file: Path) -> frozenset[str]:
    found = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef))


def missing(text: str) -> list[str]:
    """Of the tests that a text names those that are not there."""
    return [f"{file}::{name}" for file, name in PLACE.findall(text) if name not in names_in(ROOT / "tests" / file)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_a_row_names_tests_that_are_there(row: list[str]) -> None:
    assert len(row) == len(HEAD), "a | inside a cell is written \\|"
    assert row[0] and row[1]
    assert PLACE.search(row[-1]), f"no `file.py::test` in: {row[-1]}"
    assert not missing(row[-1])


def test_a_test_that_is_not_there_is_missed() -> None:
    assert missing("`test_trust.py::test_a_row_names_tests_that_are_there`, `test_trust.py::test_of_nothing`") == [
        "test_trust.py::test_of_nothing"
    ]


def test_every_promise_of_the_page_on_security_has_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    promises = page.partition("## Promises")[2].partition("\n\nWeights")[0].splitlines()[4:]
    assert len(promises) > 15
    for line in promises:
        assert PLACE.search(line), f"no `file.py::test` in: {line}"
    assert not missing(page)
