"""Are the pieces that a manifest lists of a tensor all of it, each element once? Imports no
torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dougong.parallel.pieces import OwnedPiece


@dataclass(frozen=True)
class ListedSpan:
    """Elements `begin` to before `end` of a tensor of shape `whole`. `label`: the tensor's;
    `shape`: of what is stored; `file`: the one that must hold all of the tensor, empty where its
    pieces may lie in several."""

    label: str
    begin: int
    end: int
    whole: tuple[int, ...]
    shape: tuple[int, ...]
    file: str


def check_spans(spans: Iterable[ListedSpan]) -> None:
    """ValueError where those of a tensor overlap, leave something out, or do not agree."""
    by_label: dict[str, list[ListedSpan]] = {}
    for span in spans:
        by_label.setdefault(span.label, []).append(span)
    for label, of_tensor in by_label.items():
        _check_tensor(label, sorted(of_tensor, key=lambda span: span.begin))


def _check_tensor(label: str, spans: list[ListedSpan]) -> None:
    first, end = spans[0], 0
    for span in spans:
        place = OwnedPiece(label, span.begin, span.end).name
        if span.whole != first.whole or bool(span.shape) != bool(first.shape):
            raise ValueError(f"{place}: is of shape {span.whole}, {first.whole} before it")
        if span.file != first.file:
            raise ValueError(f"{place}: lies in {span.file}, what is before it in {first.file}")
        if span.begin != end or span.end <= end:
            raise ValueError(f"{place}: what is before it ends at {end}")
        if span.shape and span.shape != (span.end - span.begin,):
            raise ValueError(f"{place}: has shape {list(span.shape)}")
        end = span.end
    if end != math.prod(first.whole):
        raise ValueError(f"{label}: its pieces end at {end}, it has shape {list(first.whole)}")
