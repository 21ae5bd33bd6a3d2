"""Where a worker's dense gradients are added up, and how it is known that a bucket of them is
complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dougong.errors import ModelError
from dougong.parallel.dense.buckets import Bucket
from dougong.parallel.dense.ordered_reduce import Reducer
from dougong.parallel.segments.flight import USED_ELSEWHERE, GradientSink
from dougong.parallel.segments.tape import GraphNode
from dougong.parallel.trace.tracer import Tracer


class DenseGradients:
    """Float32 sums of the local lanes' dense gradients, added in micro-batch order; complete
    buckets go to the reducer.

    A bucket is complete when as many gradients have come in the last micro-batch as in the first
    step's. In the first step, which learns that number, all buckets are complete at the end.

    `interleaved`: micro-batches overtake each other. A tensor that gets several gradients from one
    of them (the model uses it in several segments) would then be added up in an order of the
    schedule's, and is refused.
    """

    def __init__(
        self,
        leaves: Mapping[GraphNode, str],
        lanes: Sequence[int],
        reducer: Reducer,
        buckets: Sequence[Bucket],
        *,
        interleaved: bool,
        tracer: Tracer | None = None,
    ) -> None:
        """`leaves`: the trainable dense tensors' names. Lanes may share one sum
        (`Reducer.sums`)."""
        self._leaves, self._lanes, self._reducer = leaves, lanes, reducer
        self._buckets = buckets
        self._bucket_of: dict[str, int] = {}
        for number, bucket in enumerate(buckets):
            self._bucket_of |= dict.fromkeys(bucket.shapes, number)
        self._expected: list[int] | None = None
        self._interleaved = interleaved
        self._tracer = tracer
        self.start()

    def start(self) -> None:
        """Begin a step: the first gradient of a tensor replaces what was there."""
        self._touched: set[int] = set()
        self._num_arrived = [0] * len(self._buckets)
        self._complete: set[int] = set()

    def sink(self, lane: int, last: bool) -> GradientSink:
        """Takes the gradients of one lane's micro-batch; `last`: no other micro-batch of the step
        follows."""
        sums = self._reducer.sums(lane)
        arrived: set[str] = set()

        def take(leaf: GraphNode, gradient: Tensor) -> None:
            name = self._leaves.get(leaf)
            if name is None:
                raise ModelError(USED_ELSEWHERE)
            if self._interleaved and name in arrived:
                raise ModelError(
                    f"{name} is used in several segments of the model, so that its gradient would "
                    "depend on the order of micro-batches; set pipeline: serial (or colocated, "
                    "where all workers are `role: both`)"
                )
            arrived.add(name)
            self._add(sums[name], gradient)
            if last:
                self._count(name)

        return take

    def finish(self) -> dict[str, Tensor]:
        """End of the backward: the sums over all lanes of the tensors that this worker owns. What
        received nothing is zero. Collective over the attention workers."""
        for number in range(len(self._buckets)):
            if number not in self._complete:
                self._hand_over(number)
        if self._expected is None:
            self._expected = self._num_arrived
        return self._reducer.finish() if self._lanes else {}

    def _add(self, total: Tensor, gradient: Tensor) -> None:
        if total.data_ptr() in self._touched:
            total.add_(gradient)
        else:
            total.copy_(gradient)
            self._touched.add(total.data_ptr())

    def _count(self, name: str) -> None:
        number = self._bucket_of[name]
        if number in self._complete:
            raise ModelError(
                f"{name} received more gradients in this step than in the first, and its sum has "
                "been sent already: the model computes differently from step to step; resume the "
                "run, which learns the number anew"
            )
        self._num_arrived[number] += 1
        if self._expected is not None and self._num_arrived[number] == self._expected[number]:
            self._hand_over(number)

    def _hand_over(self, number: int) -> None:
        names = self._buckets[number].shapes
        for lane in self._lanes:
            all_sums = self._reducer.sums(lane)
            sums = {name: all_sums[name] for name in names}
            for total in sums.values():
                if total.data_ptr() not in self._touched:
                    total.zero_()
            if self._tracer is not None:
                self._tracer.sums(lane, sums)
        self._complete.add(number)
        if self._lanes:
            self._reducer.complete(number)
