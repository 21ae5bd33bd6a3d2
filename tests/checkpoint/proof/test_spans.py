"""Pieces of a tensor in a manifest: all of it, each element once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from dougong.checkpoint.proof.spans import ListedSpan, check_spans

FIRST, SECOND = (ListedSpan("w", begin, end, (3, 4), (end - begin,), "a") for begin, end in ((0, 8), (8, 12)))
NUMBERS = [dataclasses.replace(span, label="step of w", shape=(), file="") for span in (FIRST, SECOND)]


def test_all_of_a_tensor_passes_in_any_order() -> None:
    check_spans([])
    check_spans([SECOND, *NUMBERS, FIRST])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"begin": 7}, r"w\[7:12\]: what is before it ends at 8"),
        ({"begin": 9}, r"w\[9:12\]: what is before it ends at 8"),
        ({"end": 8}, r"w\[8:8\]: what is before it ends at 8"),
        ({"end": 13, "shape": (5,)}, r"w: its pieces end at 13, it has shape \[3, 4\]"),
        ({"end": 11, "shape": (3,)}, r"w: its pieces end at 11, it has shape \[3, 4\]"),
        ({"whole": (12,)}, r"w\[8:12\]: is of shape \(12,\), \(3, 4\) before it"),
        ({"shape": ()}, r"w\[8:12\]: is of shape"),
        ({"shape": (2, 2)}, r"w\[8:12\]: has shape \[2, 2\]"),
        ({"file": "b"}, r"w\[8:12\]: lies in b, what is before it in a"),
        ({"label": "v"}, r"w: its pieces end at 8|v\[8:12\]: what is before it ends at 0"),
    ],
)
def test_what_is_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_spans([FIRST, dataclasses.replace(SECOND, **changes)])
