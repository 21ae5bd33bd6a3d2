"""The first value that is not finite, wherever in a step it appears."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from dougong.parallel.trace.finite_watch import FiniteWatch
from dougong.parallel.trace.trace_key import ALL_LANES, FORWARD, SUMS, WHOLE_STEP, TraceKey

LEAF = object()


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def begin(self, leaves: Iterable[Any]) -> None:
        self.calls.append(("begin", list(leaves)))

    def take(self, leaf: Any, gradient: torch.Tensor) -> None:
        self.calls.append(("take", leaf, gradient.tolist()))

    def end(self) -> None:
        self.calls.append("end")


def bad(value: float = float("nan")) -> torch.Tensor:
    return torch.tensor([1.0, value])


def watching() -> FiniteWatch:
    watch = FiniteWatch(7, {LEAF: "lm_head.weight"})
    watch.begin_step(7)
    return watch


def test_nothing_is_found_where_all_is_finite() -> None:
    watch = watching()
    watch.losses(0, 2, {0: torch.tensor(2.0)})
    watch.experts((1, 0), "m", {3: {"down": torch.ones(2)}})
    assert watch.first is None


def test_a_gradient_is_shown_on_its_way() -> None:
    watch, sink = watching(), Sink()
    watched = watch.watched(1, 2, sink)
    watched.begin([LEAF])
    watched.take(LEAF, bad(float("inf")))
    watched.end()
    assert sink.calls == [("begin", [LEAF]), ("take", LEAF, [1.0, float("inf")]), "end"]
    assert watch.first == TraceKey(1, 2, SUMS, WHOLE_STEP, "leaf", "lm_head.weight")


def test_an_experts_gradient_is_of_all_lanes_and_of_the_first_micro_batch_that_shows_it() -> None:
    watch = watching()
    watch.experts((1, 0), "m", {3: {"down": torch.ones(2)}, 4: {"down": torch.ones(2)}})
    for microbatch in (1, 2):
        watch.experts((1, microbatch), "m", {3: {"down": torch.ones(2)}, 4: {"down": bad()}})
    assert watch.first == TraceKey(ALL_LANES, 1, SUMS, 1, "leaf", "m.down[4]")


def test_what_the_model_computes_first_comes_first() -> None:
    watch = watching()
    watch.watched(0, 0, Sink()).take(LEAF, bad())
    watch.losses(0, 2, {1: torch.tensor(float("nan"))})
    assert watch.first == TraceKey(1, 0, FORWARD, 2, "loss")
