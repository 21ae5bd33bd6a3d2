"""Files of JSON lines that meet a full disk, a killed writer and numbers that are not finite."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import LaunchError, RecordError
from dougong.records.jsonl import JsonLines, decode_numbers, dumps, parse_line
from hypothesis import given
from hypothesis import strategies as st


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond that: as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl")
    assert lines.read() == []
    for number in range(3):
        lines.append({"number": number})
    assert lines.read() == JsonLines(lines.path).read() == [{"number": number} for number in range(3)]


def test_lines_with_their_places_are_what_is_read_at_once(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl")
    assert list(lines.lines()) == []
    lines.path.write_text('{"number": 1}\n{"number": 2}\n{"num')
    assert [parse_line(*line) for line in lines.lines()] == lines.read() == [{"number": 1}, {"number": 2}]
    lines.path.write_text('{"number": 1}\n[]\n')
    with pytest.raises(RecordError, match="a.jsonl:2: holds a list"):
        [parse_line(*line) for line in lines.lines()]


def test_half_a_line_on_a_full_disk_is_cut_off_by_the_next_append(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append({"number": 1})
    with files_of_at_most(lines.path.stat().st_size + 5), pytest.raises(LaunchError, match="cannot append: File too"):
        lines.append({"number": 2})
    assert not lines.path.read_bytes().endswith(b"\n")
    assert lines.read() == [{"number": 1}]
    lines.append({"number": 3})
    assert lines.read() == [{"number": 1}, {"number": 3}]


def test_a_file_that_is_half_a_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"num')
    assert JsonLines(path).read() == []
    JsonLines(path).append({"number": 1})
    assert JsonLines(path).read() == [{"number": 1}]


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=5
)


@given(values)
def test_every_line_is_plain_json(value: Any) -> None:
    text = dumps({"value": value})
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert "\n" not in text


def test_numbers_that_are_not_finite_come_back() -> None:
    row = {"loss": math.inf, "islands": {"east": {"compute_s": -math.inf}}, "grad_norm": math.nan, "name": "x"}
    back = decode_numbers(json.loads(dumps(row)))
    assert math.isnan(back.pop("grad_norm"))
    assert back == {"loss": math.inf, "islands": {"east": {"compute_s": -math.inf}}, "name": "x"}
