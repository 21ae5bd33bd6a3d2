"""One micro-batch in flight: its forward is a greenlet that pauses at every experts call, its
backward a tape walk.

The model's code does not know that it was paused. Grad mode is on only while the model runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from dougong.errors import ModelError
from dougong.parallel.segments.tape import EVERYTHING, GraphNode, TapeWalk, leaf_node, sequence_now

GradientSink = Callable[[GraphNode, Tensor], None]

USED_ELSEWHERE = (
    "the model uses its experts' weights outside of the experts call, where they cannot be distributed; "
    "this family is not supported"
)


@dataclass(frozen=True)
class Forward:
    """A micro-batch's forward: `run` returns the loss; `before_segment(i)` is called before segment
    i runs, so that random numbers belong to the segment and not to what ran before it in the
    process."""

    run: Callable[[], Tensor]
    before_segment: Callable[[int], None] = lambda segment: None


@dataclass
class ExpertsCall:
    """A paused experts call: what the model asked, and where on the tape it stands.

    hidden [T, H]; index [T, K] integer (-1: no expert); weights [T, K]. `answer` is the leaf [T, H]
    that the model went on with.
    """

    site: int
    hidden: Tensor
    index: Tensor
    weights: Tensor
    sequence: int
    answer: Tensor | None = None


def pause_at_experts(site: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Called by the model in place of its experts: hands the call to the flight's owner and returns
    the answer."""
    call = ExpertsCall(site, hidden, index, weights, sequence_now())
    owner = getcurrent().parent
    answer: Tensor = owner.switch(call)
    return answer


def note_on_flight(value: Any) -> None:
    """Called by a hook in the model: keep something of the forward that is running, for the
    flight's owner. Outside of a flight it is lost."""
    notes = getattr(getcurrent(), "notes", None)
    if notes is not None:
        notes.append(value)


class Flight:
    """One lane's micro-batch: resume it forward with answers, then backward with gradients."""

    def __init__(
        self, forward: Forward, shared_leaves: frozenset[GraphNode], with_gradients: bool
    ) -> None:
        self._greenlet = greenlet(forward.run)
        self.notes: list[Any] = []
        self._greenlet.notes = self.notes
        self._before_segment = forward.before_segment
        self._shared_leaves = shared_leaves
        self._with_gradients = with_gradients
        self._walk: TapeWalk | None = None
        self.calls: list[ExpertsCall] = []
        self.loss: Tensor | None = None
        self.extra_loss: Tensor | None = None

    def start(self) -> None:
        """Run to the first experts call (or to the end)."""
        self._switch()

    def resume(self, answer: Tensor) -> None:
        """Go on with the experts' answer [T, H] to the next call (or to the end, which sets
        `loss`)."""
        call = self.calls[-1]
        call.answer = answer.detach().requires_grad_(self._with_gradients)
        self._switch(call.answer)

    def _switch(self, *values: Tensor) -> None:
        self._before_segment(len(self.calls))
        try:
            with torch.set_grad_enabled(self._with_gradients):
                result = self._greenlet.switch(*values)
        except RuntimeError as error:
            if "meta" in str(
                error
            ):  # experts' own parameters have no memory, so that nothing can use them unseen
                raise ModelError(f"{USED_ELSEWHERE}: {error}") from error
            raise
        if self._greenlet.dead:
            self.loss = result
        else:
            self.calls.append(result)

    def begin_backward(self, scale: float) -> Tensor:
        """Start the walk from the loss (and `extra_loss`), weighted by `scale`; returns the loss's
        value and lets the graph go."""
        assert self.loss is not None, "backward before the forward has ended"
        self._walk = TapeWalk(self._shared_leaves)
        value = self.loss.detach()
        self._walk.add(self.loss, torch.full_like(value, scale))
        if self.extra_loss is not None:
            self._walk.add(self.extra_loss, torch.full_like(self.extra_loss, scale))
        self.loss = self.extra_loss = None
        self.notes.clear()
        return value

    def backward_to_call(self, hand_out: GradientSink) -> tuple[ExpertsCall, Tensor]:
        """Walk back to the newest experts call; returns it with the gradient [T, H] of its
        answer."""
        call = self.calls.pop()
        assert self._walk is not None and call.answer is not None
        own = leaf_node(call.answer)
        gradient = None
        for node, value in self._walk.until(call.sequence):
            if node is own:
                gradient = value
            else:
                hand_out(node, value)
        if gradient is None:
            gradient = torch.zeros_like(call.answer)
        return call, gradient

    def take_back(self, call: ExpertsCall, dhidden: Tensor, dweights: Tensor) -> None:
        """The experts' gradients of a call's inputs have come: they join the walk."""
        assert self._walk is not None
        for tensor, gradient in ((call.hidden, dhidden), (call.weights, dweights)):
            if tensor.requires_grad:
                self._walk.add(tensor, gradient.to(tensor.dtype))

    def end_backward(self, hand_out: GradientSink) -> None:
        """Walk what is left, before the first experts call."""
        assert self._walk is not None
        for node, value in self._walk.until(EVERYTHING):
            hand_out(node, value)
        self._walk = None
