"""What scalars mean, and a value written so that readers of both versions of YAML agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from dougong.job.yaml.locations import read
from dougong.job.yaml.scalars import TAG, construct, write_flow
from hypothesis import given
from hypothesis import strategies as st

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3.0e-4", 3e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("010", 10),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0o17", 15),
        ("-7", -7),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("no", "no"),
        ("On", "On"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
    ],
)
def test_what_plain_text_means(text: str, value: Any) -> None:
    document = read(text)
    assert document.problems == []
    assert document.data == value and type(document.data) is type(value)


def test_nan() -> None:
    assert math.isnan(read(".nan").data)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = write_flow(value)
    assert "\n" not in text
    assert read(text).data == value
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize("letter", ["y", "Y", "n", "N"])
def test_a_letter_that_older_readers_take_for_a_truth_value_is_quoted(letter: str) -> None:
    document = read(write_flow({letter: letter}))
    assert (document.data, document.problems) == ({letter: letter}, [])


@pytest.mark.parametrize(
    ("tag", "text", "error"),
    [("int", "x", ValueError), ("float", "1.2.3", ValueError), ("bool", "yes", KeyError), ("timestamp", "5", KeyError)],
)
def test_a_text_that_is_none_of_its_tag(tag: str, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        construct(TAG + tag, text)
