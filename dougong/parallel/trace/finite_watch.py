"""Where in a step the first value appears that is not finite: a tracer that counts them.

It looks closer than a trace of checksums does: at every micro-batch's own gradient of each dense
tensor, and at the experts' weights after each micro-batch. So it is used off the fast path only,
on a step that is computed once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dougong.ops.finite import num_not_finite
from dougong.parallel.schedules.operation import CallKey
from dougong.parallel.segments.flight import GradientSink
from dougong.parallel.segments.tape import GraphNode
from dougong.parallel.trace.trace_key import ALL_LANES, SUMS, WHOLE_STEP, TraceKey
from dougong.parallel.trace.tracer import Tracer


class FiniteWatch(Tracer):
    """Of one worker and one step: `found[place]` is how many values there are not finite."""

    def __init__(self, step: int, leaves: Mapping[GraphNode, str]) -> None:
        """`leaves`: the trainable dense tensors' names."""
        super().__init__(step, num_not_finite)
        self._leaves = leaves

    @property
    def first(self) -> TraceKey | None:
        """The first place, in the model's order, that holds such a value."""
        bad = [place for place, count in self.found.items() if count]
        return min(bad, key=lambda place: place.order, default=None)

    def watched(self, lane: int, microbatch: int, sink: GradientSink) -> GradientSink:
        return _WatchedSink(self, lane, microbatch, sink)

    def leaf(self, lane: int, microbatch: int, node: GraphNode, gradient: Tensor) -> None:
        """One micro-batch's gradient of one dense tensor."""
        name = self._leaves.get(node, "a tensor without a name")
        self._take({TraceKey(lane, microbatch, SUMS, WHOLE_STEP, "leaf", name): gradient})

    def experts(
        self, key: CallKey, module: str, gradients: Mapping[int, Mapping[str, Tensor]]
    ) -> None:
        site, microbatch = key
        values = {}
        for expert, tensors in gradients.items():
            for parameter, gradient in tensors.items():
                name = f"{module}.{parameter}[{expert}]"
                place = TraceKey(ALL_LANES, microbatch, SUMS, site, "leaf", name)
                values[place] = gradient
        self._take(values)


@dataclass(frozen=True)
class _WatchedSink:
    """Shows the gradients of one lane's micro-batch to a watch, and hands them on."""

    watch: FiniteWatch
    lane: int
    microbatch: int
    sink: GradientSink

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        self.sink.begin(leaves)

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self.watch.leaf(self.lane, self.microbatch, leaf, gradient)
        self.sink.take(leaf, gradient)

    def end(self) -> None:
        self.sink.end()
