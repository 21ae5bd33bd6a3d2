"""A file's own header against what the manifest says of its tensors."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from dougong.checkpoint.proof.header import PlacedTensor, TensorClaim, compare_header, read_header


def header(tensors: dict[str, Any]) -> bytes:
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return struct.pack("<Q", len(text)) + text


WEIGHT = {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128]}
DATA = header({"a.weight": WEIGHT})
END = len(DATA)


def test_where_both_say_the_same_there_is_nothing_to_tell() -> None:
    whole = TensorClaim("a.weight", "a.weight", None, PlacedTensor("F32", (4, 8), END, 128))
    row = TensorClaim("a.weight[2]", "a.weight", 2, PlacedTensor("F32", (8,), END + 64, 32))
    assert read_header(DATA) == {"a.weight": whole.place}
    place = PlacedTensor("F32", (3,), END + 20, 12)
    span = TensorClaim("a.weight[5:8]", "a.weight", None, place, begin=5, whole=(4, 8))
    assert compare_header(DATA, [whole, row, span]) == []


@pytest.mark.parametrize(
    ("name", "row", "place"),
    [
        ("a.weight", None, PlacedTensor("F32", (2, 16), END, 128)),
        ("a.weight", None, PlacedTensor("I32", (4, 8), END, 128)),
        ("a.weight", None, PlacedTensor("F32", (4, 8), END + 8, 128)),
        ("a.weight", 1, PlacedTensor("F32", (8,), END + 64, 32)),
        ("a.weight", 4, PlacedTensor("F32", (8,), END + 128, 32)),
        ("b.weight", None, PlacedTensor("F32", (4, 8), END, 128)),
    ],
)
def test_where_they_differ_both_are_told(name: str, row: int | None, place: PlacedTensor) -> None:
    (found,) = compare_header(DATA, [TensorClaim("label", name, row, place)])
    assert (found.label, found.actual) == ("label", str(place))
    assert found.expected != found.actual


def test_a_span_of_a_tensor_of_another_shape_is_none_of_this_one() -> None:
    place = PlacedTensor("F32", (3,), END + 20, 12)
    (found,) = compare_header(DATA, [TensorClaim("label", "a.weight", None, place, 5, (8, 4))])
    assert (found.expected, found.actual) == ("a part of [4, 8]", "a part of [8, 4]")


@pytest.mark.parametrize(
    ("begin", "place"),
    [
        (4, PlacedTensor("F32", (3,), END + 20, 12)),
        (5, PlacedTensor("I32", (3,), END + 20, 12)),
        (30, PlacedTensor("F32", (3,), END + 120, 12)),
    ],
)
def test_so_are_spans_that_are_not_there(begin: int, place: PlacedTensor) -> None:
    (found,) = compare_header(DATA, [TensorClaim("label", "a.weight", None, place, begin)])
    assert found.expected != found.actual == str(place)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"12345678",
        DATA + b" ",
        struct.pack("<Q", 5) + b"[1,2]",
        struct.pack("<Q", 10**6) + b"[" * 10**6,
        header({"a": 3}),
        header({"a": {**WEIGHT, "data_offsets": [0]}}),
        header({"a": {**WEIGHT, "shape": [float("inf")]}}),
        header({"a": {"dtype": "F32", "shape": [4]}}),
        header({"a": {**WEIGHT, "shape": None}}),
    ],
)
def test_what_is_no_header_is_told_and_raises_nothing_else(data: bytes) -> None:
    (found,) = compare_header(data, [])
    assert (found.label, found.rule, found.expected) == ("", "header", "one of the safetensors format")
