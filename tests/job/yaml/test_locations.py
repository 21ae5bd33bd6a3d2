"""YAML with marks: values, places, and every mistake of the text itself."""

from __future__ import annotations

import pytest
from dougong.job.yaml.locations import MAX_DEPTH, Position, read
from hypothesis import given
from hypothesis import strategies as st


def test_marks() -> None:
    document = read("a: 1\nb:\n  - c: [2, 3]\n    d: x\n")
    assert document.keys[("b", 0, "d")] == Position(4, 5)
    assert document.values[("b", 0, "d")] == Position(4, 8)
    assert document.values[("b", 0, "c", 1)] == Position(3, 12)
    assert document.values[("b", 0)] == Position(3, 5)
    assert document.values[()] == Position(1, 1)


def test_aliases_and_merges() -> None:
    text = "base: &b {x: 1, y: 2}\none: *b\ntwo: {<<: *b, y: 3}\nthree: {<<: [{y: 8, z: 5}, *b]}\n"
    data = read(text).data
    assert data["one"] == {"x": 1, "y": 2}
    assert data["two"] == {"y": 3, "x": 1}
    assert data["three"] == {"y": 8, "z": 5, "x": 1}
    assert data["one"] is not data["base"]


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: [1, 2\nb: 3\n", 2, 2, "close every"),
        ("a: 1\n\tb: 2\n", 2, 1, "spaces, not tabs"),
        ("a: b: c\n", 1, 5, "in quotes"),
        ("a: 'b\n", 2, 1, "close the quote"),
        ("a: *b\n", 1, 4, "define the anchor"),
        ("a: *.txt\n", 1, 5, "begins with * in quotes"),
        ("a: 1\n---\nb: 2\n", 2, 1, "one document"),
        ("a: 1\nb: \x01\n", 2, 4, "not allowed"),
        ("a: 1\n b: 2\n", 2, 3, "mapping values"),
        ("a: @b\n", 1, 4, "quote the text"),
    ],
)
def test_what_is_not_yaml(text: str, line: int, column: int, words: str) -> None:
    document = read(text)
    assert not document.readable and document.data is None
    (problem,) = document.problems
    assert (problem.mark, problem.path) == (Position(line, column), ())
    assert words in problem.text


@pytest.mark.parametrize(
    ("text", "mark", "path", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", Position(2, 11), ("b", "c"), "given twice, first on line 2"),
        ("a: 1\nb: 2\na: 3\n", Position(3, 1), ("a",), "given twice, first on line 1"),
        ("a: {1: x}\n", Position(1, 5), ("a",), "a key must be text"),
        ("a: {[x]: y}\n", Position(1, 5), ("a",), "a key must be text"),
        ("true: y\n", Position(1, 1), (), "a key must be text"),
        ("a: !!python/name:os.system x\n", Position(1, 4), ("a",), "cannot be read"),
        ("a: !thing {b: 1}\n", Position(1, 4), ("a",), "not supported"),
        ("a: !!int x\n", Position(1, 4), ("a",), "cannot be read"),
        ("a: " + "9" * 5000 + "\n", Position(1, 4), ("a",), "cannot be read"),
        ('a: "\\ud800"\n', Position(1, 4), ("a",), "cannot be read"),
        ("a: {<<: 3}\n", Position(1, 9), ("a",), "name an anchored mapping"),
        ("k" * 300 + ": 1\n", None, (), "at most 200 characters"),
    ],
)
def test_problems_that_leave_the_rest_readable(
    text: str, mark: Position | None, path: tuple[str, ...], words: str
) -> None:
    document = read(text + "last: 1\n")
    if mark is None:  # so long a key is written with a question mark
        document = read(f"? {text.partition(':')[0]}\n: 1\nlast: 1\n")
    (problem,) = document.problems
    assert problem.path == path and words in problem.text
    assert mark is None or problem.mark == mark
    assert document.readable and document.data["last"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "[" * 200 + "]" * 200,
        "a: &a [*a]\n",
        "".join(f"{'a: ' if i == 0 else ''}{{b: " for i in range(MAX_DEPTH + 2)) + "1" + "}" * (MAX_DEPTH + 2),
        "a: &a {<<: *a}\n",
    ],
    ids=["open", "closed", "alias in itself", "mappings", "merge of itself"],
)
def test_depth_is_limited(text: str) -> None:
    document = read(text)
    assert not document.readable
    assert len(document.problems) == 1


def test_size_is_limited() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert "aliases" in read(laughs).problems[0].text
    assert "characters" in read("#" * 2_000_000).problems[0].text


def test_yes_and_no_are_remembered_where_they_are_plain() -> None:
    document = read("{a: yes, b: 'no', c: [Off, on], d: true, e: nor}")
    assert document.yes_no == [("a",), ("c", 0), ("c", 1)]


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!<>|'\"\n #,?01%@", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    document = read(text)
    assert document.readable == (document.data is not None or not document.problems or bool(document.values))
    assert document.readable or document.problems
