"""Where in a flight's forward and backward each unit's tensors are needed.

A unit's module says when its forward begins and ends. The nodes that it makes meanwhile have
sequence numbers between the two moments, so that the walk back knows from a node's number alone
which units it touches. That a flight pauses in between changes nothing: nodes of others are not on
its tape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from dougong.parallel.segments.tape import EVERYTHING, GraphNode, TapeWalk, sequence_now


class UnitUse(Protocol):
    """Has a unit's tensors there as long as a flight uses it. Units are told by their numbers."""

    def enter(self, unit: int, is_backward: bool) -> None:
        """A flight needs it from now on: waits until it is there."""
        ...

    def leave(self, unit: int, is_backward: bool) -> None:
        """A flight is done with it in this direction, or has passed it by."""
        ...


@dataclass
class _UnitSpan:
    """A unit's part of a flight's tape: numbers from `begin` to before `end`."""

    unit: int
    begin: int
    end: int | None = None


class UnitSpans:
    """Of one flight."""

    def __init__(self, use: UnitUse, with_gradients: bool) -> None:
        self._use, self._with_gradients = use, with_gradients
        self._spans: list[_UnitSpan] = []
        self._entered: set[int] = set()

    def belongs_to(self, runs: greenlet) -> None:
        """What runs there is this flight's forward."""
        runs.unit_spans = self

    @staticmethod
    def here() -> UnitSpans | None:
        """Of the greenlet that runs this; None: it is no flight's forward."""
        return getattr(getcurrent(), "unit_spans", None)

    def begin(self, unit: int) -> None:
        """The forward of a unit's module begins."""
        self._use.enter(unit, False)
        self._spans.append(_UnitSpan(unit, sequence_now()))

    def end(self, unit: int) -> None:
        """It has ended."""
        span = next(span for span in reversed(self._spans) if span.unit == unit)
        span.end = sequence_now()
        self._use.leave(unit, False)
        if not self._with_gradients:
            self._spans.remove(span)

    def walk(self, walk: TapeWalk, bound: int) -> Iterator[tuple[GraphNode, Tensor]]:
        """As `TapeWalk.until`, with each unit's tensors there while nodes of its forward run."""
        while True:
            number = walk.next_number
            if number is None or number < bound:
                break
            self._leave_above(number)
            yield from walk.until(max(bound, self._entered_below(number)))
        yield from walk.until(bound)

    def finish(self, walk: TapeWalk) -> Iterator[tuple[GraphNode, Tensor]]:
        """The rest of the walk. No unit is needed any more."""
        yield from self.walk(walk, EVERYTHING)
        self._leave_above(EVERYTHING)
        yield from walk.finish()

    def _leave_above(self, number: int) -> None:
        """All nodes above this number have run."""
        while self._spans and self._spans[-1].begin > number:
            span = self._spans.pop()
            self._entered.discard(span.unit)
            self._use.leave(span.unit, True)

    def _entered_below(self, number: int) -> int:
        """Enter the unit to which a node belongs; how far down the walk may go then."""
        if not self._spans:
            return EVERYTHING
        span = self._spans[-1]
        assert span.end is not None, "a backward follows its whole forward"
        if number >= span.end:  # between two units, or behind the last one
            return span.end
        if span.unit not in self._entered:
            self._entered.add(span.unit)
            self._use.enter(span.unit, True)
        return span.begin


def tell_units(modules: Sequence[nn.Module]) -> None:
    """Have each module's forward tell the flight that runs it where it begins and ends. Once a
    model; `modules`: by a unit's number."""
    for number, module in enumerate(modules):
        module.register_forward_pre_hook(_telling(UnitSpans.begin, number))
        module.register_forward_hook(_telling(UnitSpans.end, number), always_call=True)


def _telling(tell: Callable[[UnitSpans, int], None], number: int) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        spans = UnitSpans.here()
        if spans is not None:
            tell(spans, number)

    return hook
