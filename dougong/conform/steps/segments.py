"""A model on a device, segment by segment, against the processor.

The cut is a run's own: between two experts calls lies a segment. Both sides are given the
processor's values at every cut, forward and backward, so that what departs is named where it
departs.

Legend: T tokens, K choices per token, R rows of experts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, Result, first_line
from dougong.conform.judge import EPSILON, TF32, Exactness, deviance
from dougong.conform.operators.products import reads_tf32
from dougong.conform.record import SegmentFacts
from dougong.conform.steps.golden import blueprint_of, plan_of, stepper_of, tokens
from dougong.conform.steps.tiny import job_of
from dougong.ops import permute as ops
from dougong.ops.experts.base import Block
from dougong.parallel.segments.flight import ExpertsCall, Flight, Forward
from dougong.parallel.segments.tape import GraphNode, leaf_node
from dougong.training.replica import Replica
from dougong.training.step import Stepper

GROUP = "model"
FACTOR = 128.0
"""A segment's bound in units of float32's precision: its own rounding was seen to stay below 3 of
them. It grows with the segments before, whose sums a model carries on."""
TF32_FACTOR = 16.0
"""The same in units of TF32's."""
FLIPS = 0.02
"""So many tokens may be given to other experts: two scores may be as close as rounding."""


def segment_checks() -> Iterator[Check]:
    yield Check("the model, segment by segment", GROUP, "the model", compare_model)


@dataclass
class ModelSide:
    """One of the two: a model in flight, and its experts."""

    stepper: Stepper
    flight: Flight
    device: torch.device
    sink: _Sink = field(init=False)

    def __post_init__(self) -> None:
        self.sink = _Sink(self.replica)

    @property
    def replica(self) -> Replica:
        return self.stepper.parts.share.replica


class _Sink:
    """Keeps the gradients of dense tensors by name."""

    def __init__(self, replica: Replica) -> None:
        self._names = {leaf_node(tensor): name for name, tensor in replica.leaves}
        self._found: dict[str, Tensor] = {}

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        """All are taken."""

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self._found[self._names[leaf]] = gradient

    def end(self) -> None:
        """Nothing is left to do."""

    def taken(self) -> dict[str, Tensor]:
        """Those since the last call."""
        found, self._found = self._found, {}
        return found


@dataclass(frozen=True)
class ExpertsRun:
    """The experts of one call, forward, with what their backward needs."""

    outputs_TH: Tensor
    outputs_RH: Tensor
    routing: ops.Routing
    saved: object
    hidden_TH: Tensor
    weights_TK: Tensor


class Lockstep:
    """Two sides in lockstep; `segments` is what has been found so far."""

    def __init__(self, exact: ModelSide, tried: ModelSide, bound: float) -> None:
        self.exact, self.tried = exact, tried
        self.segments: list[SegmentFacts] = []
        self._bound = bound
        self._calls: list[tuple[ExpertsRun, ExpertsRun]] = []

    def run(self) -> None:
        """Forward, then backward."""
        for side in (self.exact, self.tried):
            side.flight.start()
        while self.exact.flight.loss is None:
            self._forward(len(self._calls))
        losses = self.exact.flight.loss, self.tried.flight.loss
        assert losses[1] is not None
        last = len(self._calls)
        self._note(self._segment(last), {"loss": (losses[0].detach(), losses[1].detach())}, last)
        for side in (self.exact, self.tried):
            side.flight.begin_backward(1.0, side.sink)
        for number in reversed(range(len(self._calls))):
            self._backward(number)
        for side in (self.exact, self.tried):
            side.flight.end_backward(side.sink)
        self._note(f"{self._segment(0)}, backward", self._gradients(), last)

    def _forward(self, number: int) -> None:
        one, other = self.exact.flight.calls[-1], self.tried.flight.calls[-1]
        flips = _flips(one.index, other.index)
        words = "" if flips <= FLIPS else f"{flips:.0%} of the tokens are given to other experts"
        pairs = {"hidden": (one.hidden.detach(), other.hidden.detach())}
        if not flips:
            pairs["weights"] = (one.weights.detach(), other.weights.detach())
        self._note(self._segment(number), pairs, number, words)
        runs = _experts(self.exact, one, number), _experts(self.tried, one, number)
        self._calls.append(runs)
        outputs = {"outputs": (runs[0].outputs_TH, runs[1].outputs_TH)}
        self._note(self._site(number), outputs, 0)
        for side in (self.exact, self.tried):
            side.flight.resume(runs[0].outputs_TH.to(side.device))

    def _backward(self, number: int) -> None:
        (call, dout_TH), (other, found_TH) = (
            side.flight.backward_to_call(side.sink) for side in (self.exact, self.tried)
        )
        pairs = self._gradients()
        pairs["gradient of the experts' outputs"] = (dout_TH, found_TH)
        done = 2 * len(self._calls) - number
        self._note(f"{self._segment(number + 1)}, backward", pairs, done)
        exact = self._experts_backward(number, dout_TH)
        for side, one in ((self.exact, call), (self.tried, other)):
            given = (exact[name].to(side.device) for name in ("hidden", "weights"))
            side.flight.add_input_gradients(one, *given)

    def _experts_backward(self, number: int, dout_TH: Tensor) -> dict[str, Tensor]:
        """Of both sides; the processor's."""
        one, other = self._calls[number]
        exact = _experts_backward(self.exact, one, dout_TH, number)
        found = _experts_backward(self.tried, other, dout_TH.to(self.tried.device), number)
        both = {name: (value, found[name]) for name, value in exact.items()}
        self._note(f"{self._site(number)}, backward", both, 0)
        return exact

    def _gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of dense tensors since the last cut."""
        exact, tried = self.exact.sink.taken(), self.tried.sink.taken()
        return {name: (value, tried[name]) for name, value in exact.items() if name in tried}

    def _segment(self, number: int) -> str:
        names = self.exact.replica.cut.names
        if number == len(names):
            return f"segment {number} (after {names[-1]}, with the loss)"
        return f"segment {number} (before {names[number]})"

    def _site(self, number: int) -> str:
        return f"experts of {self.exact.replica.cut.names[number]}"

    def _note(
        self,
        name: str,
        pairs: Mapping[str, tuple[Tensor, Tensor]],
        num_before: int,
        words: str = "",
    ) -> None:
        allowed = self._bound * (1 + num_before)
        largest = 0.0
        for what, (exact, found) in pairs.items():
            apart = deviance(found.detach().to(CPU), exact.detach().double(), Exactness.SUMMED)
            largest = max(largest, apart.error)
            if not words and apart.misfit:
                words = f"{what}: {apart.misfit}"
            elif not words and apart.error > allowed:
                words = f"{what} is off by {apart.error:.1e} of its size"
        self.segments.append(SegmentFacts(name=name, error=largest, tolerance=allowed, words=words))


def compare_model(bed: Bed) -> Result:
    """The bed's model on its device and on the processor, forward and backward."""
    sides = [_side(bed, device) for device in (CPU, bed.device)]
    bound = TF32_FACTOR * TF32 if reads_tf32(bed.device) else FACTOR * EPSILON[torch.float32]
    comparison = Lockstep(sides[0], sides[1], bound)
    words: tuple[str, ...] = ()
    try:
        comparison.run()
    except (RuntimeError, NotImplementedError) as error:
        place = comparison.segments[-1].name if comparison.segments else "the beginning"
        words = (f"behind {place}: {first_line(error)}",)
    first = next((one for one in comparison.segments if one.departs), None)
    if first is not None:
        words = (
            f"{first.name} is the first to depart: {first.words}, at most {first.tolerance:.1e} "
            "is allowed",
        )
    for side in sides:
        side.stepper.close()
    return Result(words, segments=tuple(comparison.segments))


def _side(bed: Bed, device: torch.device) -> ModelSide:
    job = job_of(bed.model)
    blueprint = blueprint_of(job, bed, device)
    stepper = stepper_of(job, blueprint, plan_of(job))
    ids = tokens(job, blueprint, 1, 0, 0).to(device)
    model = stepper.parts.share.replica.model

    def forward() -> Tensor:
        loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    return ModelSide(stepper, Flight(Forward(forward), with_gradients=True), device)


def _flips(one_TK: Tensor, other_TK: Tensor) -> float:
    """The part of the tokens that are given to other experts, in whatever order."""
    exact, found = (index.to(CPU).long().sort(-1).values for index in (one_TK, other_TK))
    return float((exact != found).any(-1).double().mean())


def _experts(side: ModelSide, call: ExpertsCall, site: int) -> ExpertsRun:
    """The experts on one side, of what the processor's router asks for."""
    cut, share = side.replica.cut, side.stepper.parts.share
    given = (call.hidden.detach(), call.index, call.weights.detach())
    hidden_TH, index_TK, weights_TK = (tensor.to(side.device) for tensor in given)
    routing = ops.make_routing(index_TK, cut.num_experts, cut.has_identity)
    rows_RH = ops.permute(hidden_TH, routing)
    outputs_RH = torch.empty_like(rows_RH)
    with torch.no_grad():
        saved = share.blueprint.op.forward(
            rows_RH, _blocks(routing), side.replica.experts[site], outputs_RH
        )
        outputs_TH = ops.unpermute(outputs_RH, hidden_TH, weights_TK, routing)
    return ExpertsRun(outputs_TH, outputs_RH, routing, saved, hidden_TH, weights_TK)


def _experts_backward(
    side: ModelSide, run: ExpertsRun, dout_TH: Tensor, site: int
) -> dict[str, Tensor]:
    """Gradients of hidden and weights, and of every expert's tensors by name."""
    routing = run.routing
    dout_RH = ops.permute(dout_TH, routing)
    weights_R = ops.weights_of_rows(run.weights_TK, routing)
    dweights_R = ops.products_of_rows(dout_RH, run.outputs_RH)
    dweights_TK = ops.weights_backward(dweights_R, dout_TH, run.hidden_TH, run.weights_TK, routing)
    drows_RH = torch.empty_like(dout_RH)
    shard = side.stepper.parts.share.shard
    shard.zero_gradients()
    with torch.no_grad():
        side.stepper.parts.share.blueprint.op.backward(
            ops.weigh_rows(dout_RH, weights_R),
            run.saved,
            side.replica.experts[site],
            shard.gradients[site],
            drows_RH,
        )()
    found = {
        "hidden": ops.permute_backward(drows_RH, dout_TH, run.weights_TK, routing),
        "weights": dweights_TK,
    }
    for expert, tensors in shard.gradients[site].items():
        for name, gradient in tensors.items():
            found[side.replica.sites[site].tensor_name(name, expert)] = gradient
    return found


def _blocks(routing: ops.Routing) -> list[Block]:
    """One for each expert that has rows."""
    blocks, start = [], 0
    for expert, count in enumerate(routing.counts_E.tolist()):
        if count:
            blocks.append(Block(expert, 0, start, count))
        start += count
    return blocks
