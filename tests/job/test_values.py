"""Names, counts, seconds, accelerators."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.job.values import UNKNOWN_ACCELERATOR, AcceleratorName, Count, Name, Positive, Seconds, Silence, WorkerName
from pydantic import TypeAdapter, ValidationError


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Name, ["a", "east-1", "x" * 63], ["", "-a", "a/b", "a\n", "x" * 64, 5]),
        (WorkerName, ["east/0", "east/12"], ["east", "east/01", "east/-1"]),
        (Positive, [1, 2**31 - 1, 6.0, 1e3], [0, 2**31, True, 1.5, 0.0, float("inf"), float("nan"), "1"]),
        (Count, [0], [-1]),
        (Seconds, [0.5, 600, 604800.0], [0, -1.0, 604801.0, "5"]),
        (Silence, [4.0], [3.9]),
        (AcceleratorName, ["cpu", "cuda", "npu"], ["gpu", "", 5]),
    ],
)
def test_what_is_taken_and_what_is_not(kind: Any, good: list[Any], bad: list[Any]) -> None:
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) == value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_a_whole_number_with_a_decimal_point_is_whole() -> None:
    found = TypeAdapter(Positive).validate_python(1e3)
    assert (found, type(found)) == (1000, int)


def test_an_unknown_accelerator_is_held_against_the_registered_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(AcceleratorName).validate_python("tpu")
    (error,) = caught.value.errors()
    assert error["type"] == UNKNOWN_ACCELERATOR
    assert error["ctx"] == {"expected": "'cpu', 'cuda' or 'npu'"}
