"""Where a worker's dense gradients are added up, and how it is known that a bucket of them is
complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from dougong.errors import ModelError
from dougong.parallel.dense.buckets import Bucket
from dougong.parallel.dense.ordered_reduce import Reducer
from dougong.parallel.segments.flight import USED_ELSEWHERE
from dougong.parallel.segments.tape import GraphNode
from dougong.parallel.trace.tracer import Tracer


class DenseGradients:
    """Float32 sums of the local lanes' dense gradients, added in micro-batch order; complete
    buckets go to the reducer.

    Which gradients a micro-batch can bring is known when its backward begins. A bucket is complete
    when every lane's last backward has begun and all that can come for its tensors has come.
    """

    def __init__(
        self,
        leaves: Mapping[GraphNode, str],
        lanes: Sequence[int],
        reducer: Reducer,
        buckets: Sequence[Bucket],
        *,
        num_microbatches: int,
        tracer: Tracer | None = None,
    ) -> None:
        """`leaves`: the trainable dense tensors' names. Lanes may share one sum
        (`Reducer.sums`)."""
        self.leaves, self._lanes, self._reducer = leaves, lanes, reducer
        self._buckets = buckets
        self._bucket_of: dict[str, int] = {}
        for number, bucket in enumerate(buckets):
            self._bucket_of |= dict.fromkeys(bucket.shapes, number)
        self._num_microbatches = num_microbatches
        self._tracer = tracer
        self.start()

    def start(self) -> None:
        """Begin a step: the first gradient of a tensor replaces what was there."""
        # Tensors that have received a gradient in this step, be it zero.
        self.reached: set[str] = set()
        # Sums that have been written to, by identity: lanes may share one.
        self._touched: set[int] = set()
        self._open: set[int] = set()
        self._complete: set[int] = set()
        # By lane and tensor: the gradients that are still to come or to be added, by micro-batch,
        # None for one that has not come.
        self._queues: dict[tuple[int, str], dict[int, Tensor | None]] = {}
        self._num_queued = [0] * len(self._buckets)
        self._num_lanes_open = len(self._lanes)

    def sink(self, lane: int, microbatch: int) -> LaneSink:
        """Takes the gradients of one lane's micro-batch. Backwards begin in the order of
        micro-batches, and may overtake each other from then on."""
        return LaneSink(self, lane, microbatch)

    def finish(self) -> dict[str, Tensor]:
        """End of the backward: the sums over all lanes of the tensors that this worker owns. What
        received nothing is zero. Collective over the attention workers."""
        for number in range(len(self._buckets)):
            if number not in self._complete:
                self._hand_over(number)
        return self._reducer.finish() if self._lanes else {}

    def begin(self, lane: int, microbatch: int, names: Iterable[str]) -> None:
        """A micro-batch's backward begins; it may bring a gradient for each of `names`."""
        for name in names:
            self._queues.setdefault((lane, name), {})[microbatch] = None
            self._num_queued[self._bucket_of[name]] += 1
        if microbatch == self._num_microbatches - 1:
            self._num_lanes_open -= 1
        if self._num_lanes_open == 0:
            for number in range(len(self._buckets)):
                self._hand_over_if_complete(number)

    def arrive(self, lane: int, microbatch: int, name: str, gradient: Tensor | None) -> None:
        """The gradient of a name given to `begin`; None: none will come."""
        queue = self._queues[lane, name]
        if gradient is None:
            del queue[microbatch]
            self._num_queued[self._bucket_of[name]] -= 1
        else:
            queue[microbatch] = gradient
            self.reached.add(name)
        self._add_first(lane, name)
        self._hand_over_if_complete(self._bucket_of[name])

    def _add_first(self, lane: int, name: str) -> None:
        """Add up what has come, up to the first micro-batch whose gradient has not."""
        # Two micro-batches of one model may use a tensor in other segments, so that the later one's
        # gradient is complete before the earlier one's. It waits: a schedule changes no bit.
        queue = self._queues[lane, name]
        while queue:
            microbatch = next(iter(queue))
            gradient = queue[microbatch]
            if gradient is None:
                return
            del queue[microbatch]
            self._num_queued[self._bucket_of[name]] -= 1
            self._open_bucket(self._bucket_of[name])
            self._add(self._reducer.sums(lane)[name], gradient)

    def _open_bucket(self, number: int) -> None:
        if number not in self._open:
            self._open.add(number)
            self._reducer.open(number)

    def _add(self, total: Tensor, gradient: Tensor) -> None:
        if id(total) in self._touched:
            total.add_(gradient)
        else:
            total.copy_(gradient)
            self._touched.add(id(total))

    def _hand_over_if_complete(self, number: int) -> None:
        if self._num_lanes_open or self._num_queued[number] or number in self._complete:
            return
        self._hand_over(number)

    def _hand_over(self, number: int) -> None:
        names = self._buckets[number].shapes
        if self._lanes:
            self._open_bucket(number)
        for lane in self._lanes:
            all_sums = self._reducer.sums(lane)
            sums = {name: all_sums[name] for name in names}
            for total in sums.values():
                if id(total) not in self._touched:
                    total.zero_()
            if self._tracer is not None:
                # Copies: memory that a library has looked at cannot be given back any more.
                self._tracer.sums(lane, {name: total.clone() for name, total in sums.items()})
        self._complete.add(number)
        if self._lanes:
            self._reducer.complete(number)


class LaneSink:
    """The `GradientSink` of one lane's micro-batch."""

    def __init__(self, gradients: DenseGradients, lane: int, microbatch: int) -> None:
        self._gradients = gradients
        self._lane, self._microbatch = lane, microbatch
        self._expected: set[str] = set()

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        """What the graph reaches beside dense tensors are outputs of experts calls."""
        names = self._gradients.leaves
        self._expected = {names[leaf] for leaf in leaves if leaf in names}
        self._gradients.begin(self._lane, self._microbatch, self._expected)

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        name = self._gradients.leaves.get(leaf)
        if name is None:
            raise ModelError(USED_ELSEWHERE)
        self._expected.remove(name)
        self._gradients.arrive(self._lane, self._microbatch, name, gradient)

    def end(self) -> None:
        for name in self._expected:
            self._gradients.arrive(self._lane, self._microbatch, name, None)
        self._expected = set()
