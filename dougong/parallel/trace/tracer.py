"""Checksums of what a step computes on its way, by place: two layouts' traces show where they part.

An executor and a stepper that are given a `Tracer` call it; without one they call nothing. It takes
the lanes' side alone: what the experts' workers received and returned arrives there whole, whoever
they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from dougong.ops.permute import Routing
from dougong.parallel.schedules.operation import CallKey
from dougong.parallel.segments.flight import ExpertsCall, GradientSink
from dougong.parallel.trace.checksum import checksums
from dougong.parallel.trace.trace_key import BACKWARD, FORWARD, SUMS, WHOLE_STEP, TraceKey


class Tracer:
    """The trace of one worker's lanes in one step: `found[place]` is the checksum of the value
    there."""

    def __init__(
        self, step: int, measure: Callable[[Sequence[Tensor]], list[int]] = checksums
    ) -> None:
        """Records while this step runs; what is shown to it in other steps is passed over.
        `measure`: what is kept of values, a number of each."""
        self._step = step
        self._measure = measure
        self.active = False
        self.found: dict[TraceKey, int] = {}

    def begin_step(self, step: int) -> None:
        """What is shown from now on belongs to this step."""
        self.active = step == self._step

    def forward(
        self,
        key: CallKey,
        calls: Mapping[int, ExpertsCall],
        routings: Mapping[int, Routing],
        outputs: Mapping[int, Tensor],
    ) -> None:
        """An experts call of every lane: what the model asked for, and what the experts returned
        [R, H]."""
        if not self.active:
            return
        site, microbatch = key
        for lane, call in calls.items():
            asked = {"hidden": call.hidden, "choice": call.index, "weights": call.weights}
            values = {
                TraceKey(lane, microbatch, FORWARD, site, what): tensor
                for what, tensor in asked.items()
            }
            if lane in outputs:  # not where the experts' workers add them up
                values |= _blocks(
                    TraceKey(lane, microbatch, FORWARD, site, "outputs"),
                    outputs[lane],
                    routings[lane],
                )
            self._take(values)

    def losses(self, microbatch: int, num_sites: int, losses: Mapping[int, Tensor]) -> None:
        """The loss of every lane."""
        if not self.active:
            return
        self._take(
            {
                TraceKey(lane, microbatch, FORWARD, num_sites, "loss"): loss
                for lane, loss in losses.items()
            }
        )

    def backward(
        self,
        key: CallKey,
        gradients: Mapping[int, tuple[Tensor, Tensor]],
        routings: Mapping[int, Routing],
        drows: Mapping[int, Tensor],
    ) -> None:
        """An experts call's backward: `gradients[lane]` of its combined output and of the router's
        weights, and what the experts gave back for their rows [R, H]."""
        if not self.active:
            return
        site, microbatch = key
        for lane, (doutput, dweights) in gradients.items():
            values = {
                TraceKey(lane, microbatch, BACKWARD, site, "doutput"): doutput,
                TraceKey(lane, microbatch, BACKWARD, site, "dweights"): dweights,
            }
            if len(drows[lane]) == routings[lane].num_rows:
                values |= _blocks(
                    TraceKey(lane, microbatch, BACKWARD, site, "drows"), drows[lane], routings[lane]
                )
            self._take(values)

    def sums(self, lane: int, gradients: Mapping[str, Tensor]) -> None:
        """A lane's gradients of the dense tensors, before they meet other lanes'."""
        if not self.active:
            return
        self._take(
            {
                TraceKey(lane, WHOLE_STEP, SUMS, WHOLE_STEP, "leaf", name): g
                for name, g in gradients.items()
            }
        )

    def watched(self, lane: int, microbatch: int, sink: GradientSink) -> GradientSink:
        """A sink that sees the dense gradients of one micro-batch, each by itself, on their way to
        `sink`. A trace of checksums has their sums, and looks no closer."""
        return sink

    def experts(
        self, key: CallKey, module: str, gradients: Mapping[int, Mapping[str, Tensor]]
    ) -> None:
        """The weights' gradients of one module's experts, so far: at `key` they were added to. A
        trace of checksums has the lanes' side alone."""

    def _take(self, values: Mapping[TraceKey, Tensor]) -> None:
        self.found |= dict(zip(values, self._measure(list(values.values())), strict=True))


def _blocks(whole: TraceKey, rows_RH: Tensor, routing: Routing) -> dict[TraceKey, Tensor]:
    """A lane's rows, expert by expert."""
    pieces = rows_RH.split(routing.counts_E.tolist())
    return {
        TraceKey(
            whole.lane, whole.microbatch, whole.direction, whole.site, whole.what, expert
        ): piece
        for expert, piece in enumerate(pieces)
        if len(piece)
    }
