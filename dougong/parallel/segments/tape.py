"""Backward as a walk over the autograd graph that can stop at any experts call and go on later.

Nodes are called one by one in decreasing order of their sequence number, which is a topological
order: everything created after an experts call runs before anything created before it. Leaves are
handed out, not accumulated, so the order of every sum is the caller's. Bitwise equal to
`loss.backward()` (docs/design/cut-and-tape.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, KeysView, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from dougong.parallel.segments.refusals import refuse_in_backward

GraphNode = Any  # torch.autograd.graph.Node, whose private protocol the walk speaks
_Edges = tuple[tuple[GraphNode | None, int], ...]

EVERYTHING = -2
"""Bound below every sequence number: walk to the end."""


def sequence_now() -> int:
    """The sequence number that the next autograd node will get: nodes made before this moment are
    below it."""
    return int(torch._C._autograd._get_sequence_nr())


class TapeWalk:
    """A resumable backward pass over one micro-batch's graph. Run it with grad mode off.

    A leaf is handed out once, when all that the model computed from it has been walked: a weight
    that is used twice gets the sum, added in the order in which the engine adds it.
    """

    def __init__(self, starts: Iterable[Tensor | GradientEdge]) -> None:
        """`starts`: all tensors that `add` will be told of. Each is looked at now, with everything
        that it was computed from, so that it is known how often every leaf was used."""
        self._arrived: dict[GraphNode, _Arrived] = {}
        self._heap: list[tuple[int, int, GraphNode]] = []
        self._arrivals = 0
        self._following: dict[GraphNode, _Edges] = {}
        self._uses: dict[GraphNode, int] = {}
        self._complete: list[tuple[GraphNode, Tensor]] = []
        self._look_through(starts)

    @property
    def leaves(self) -> KeysView[GraphNode]:
        """The leaves that the graph reaches: no other one gets a gradient."""
        return self._uses.keys()

    @property
    def next_number(self) -> int | None:
        """The sequence number of the node that would run next; None: there is none by now."""
        return -self._heap[0][0] if self._heap else None

    def add(self, tensor: Tensor | GradientEdge, gradient: Tensor) -> None:
        """Say that `tensor` (an output of the graph, or an input of an experts call; or its place
        on the tape) received this gradient."""
        edge = edge_of(tensor)
        self._receive(edge.node, edge.output_nr, gradient)

    def until(self, bound: int) -> Iterator[tuple[GraphNode, Tensor]]:
        """Run every node whose sequence number is at least `bound`; yield (leaf node, gradient) as
        they complete."""
        # Why stopping at a bound is safe. A node's number is that of its creation in the forward,
        # and what it feeds was created later: the inputs of the largest number in the heap are
        # complete, since all that could still add to them has a larger number and has run. So every
        # order by decreasing numbers is the engine's own, and so are the sums that meet in a node.
        # An experts call's bound is the number at its pause: nodes from there on belong to the
        # segment behind it, and nothing with a smaller number needs more than that segment gives,
        # but for the gradients of the call's inputs, which `add` brings before the walk goes on.
        complete, heap = self._complete, self._heap
        while complete or (heap and -heap[0][0] >= bound):
            if complete:
                yield complete.pop(0)
            else:
                self._run(heapq.heappop(heap)[2])

    def finish(self) -> Iterator[tuple[GraphNode, Tensor]]:
        """Run what is left, and yield every leaf that is still waiting."""
        yield from self.until(EVERYTHING)
        # A node that got no gradient was never run, and the leaves behind it still count its use.
        for leaf in list(self._arrived):
            yield leaf, self._taken(leaf)

    def take(self, leaf: GraphNode) -> Tensor | None:
        """What a leaf has received, though the walk still waits for more; None: nothing."""
        return self._taken(leaf) if leaf in self._arrived else None

    def _taken(self, leaf: GraphNode) -> Tensor:
        """What a leaf has received; it is not kept any longer."""
        gradient = self._arrived.pop(leaf).gradients[0]
        assert gradient is not None, "only what has received a gradient is noted"
        return gradient

    def _look_through(self, starts: Iterable[Tensor | GradientEdge]) -> None:
        """Find all nodes that may be run, what follows each, and the uses of every leaf."""
        waiting: list[GraphNode] = []
        for start in starts:
            self._reach(edge_of(start).node, waiting)
        while waiting:
            node = waiting.pop()
            following = self._following[node] = node.next_functions
            for reached, _ in following:
                if reached is not None:
                    self._reach(reached, waiting)

    def _reach(self, node: GraphNode, waiting: list[GraphNode]) -> None:
        """An edge leads to this node, or the walk starts there."""
        if node in self._uses:
            self._uses[node] += 1
        elif node in self._following:
            return
        elif type(node) is _LEAF:
            self._uses[node] = 1
        else:
            self._following[node] = ()
            waiting.append(node)

    def _run(self, node: GraphNode) -> None:
        """Call a node with what it has received, and hand its results to the nodes that follow."""
        # What the node has used up must not outlive it: memory peaks here.
        gradients = self._arrived.pop(node).gradients
        call = _call if callable(node) else _call_python
        try:
            results = call(node, gradients)
        except RuntimeError as error:
            refuse_in_backward(error, str(node.name()))
            raise
        gradients.clear()
        for (following, index), gradient in zip(self._following.pop(node), results, strict=False):
            if following is not None:
                self._receive(following, index, gradient)

    def _receive(self, node: GraphNode, index: int, gradient: Tensor | None) -> None:
        """An edge that leads to this node has been walked. None: it brought nothing."""
        if gradient is not None:
            arrived = self._arrived.get(node) or self._note_arrival(node)
            gradient = _fit(gradient, arrived.metadata[index])
            held = arrived.gradients[index]
            if held is None:
                arrived.gradients[index] = gradient
            elif index in arrived.sums:
                held.add_(gradient)
            else:
                arrived.gradients[index] = held + gradient
                arrived.sums = arrived.sums | {index}
        uses = self._uses.get(node)
        if uses is None:
            return
        self._uses[node] = uses - 1
        if uses == 1 and node in self._arrived:
            self._complete.append((node, self._taken(node)))

    def _note_arrival(self, node: GraphNode) -> _Arrived:
        """The first gradient for this node is here; one that is no leaf will be run."""
        arrived = self._arrived[node] = _Arrived(node)
        if node not in self._uses:
            self._arrivals += 1
            heapq.heappush(self._heap, (-node._sequence_nr(), self._arrivals, node))
        return arrived


class _Arrived:
    """What a node has received, by input. `sums`: the inputs whose gradient is a sum that the walk
    made, which nobody else holds. `metadata`: of the inputs; torch makes it anew at each look."""

    __slots__ = ("gradients", "metadata", "sums")

    def __init__(self, node: GraphNode) -> None:
        self.metadata: Sequence[Any] = node._input_metadata
        self.gradients: list[Tensor | None] = [None] * len(self.metadata)
        self.sums: frozenset[int] = _NO_SUMS


def leaf_node(tensor: Tensor) -> GraphNode:
    """The graph node that stands for a leaf tensor; the walk yields it with the leaf's gradient."""
    edge: GradientEdge = get_gradient_edge(tensor)
    return edge.node


def edge_of(start: Tensor | GradientEdge) -> GradientEdge:
    """The place on the tape at which a tensor's gradient comes in."""
    return get_gradient_edge(start) if isinstance(start, Tensor) else start


_NO_SUMS: frozenset[int] = frozenset()
_LEAF = type(leaf_node(torch.empty(0, requires_grad=True)))


def _call(node: GraphNode, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    results = node(*gradients)
    return results if isinstance(results, tuple) else (results,)


def _call_python(node: GraphNode, gradients: list[Tensor | None]) -> Iterator[Tensor | None]:
    """A `torch.autograd.Function`: do what the engine does around its `backward`. Outputs that
    nobody used get zeros, and results for arguments that are no tensors go nowhere:
    `next_functions` does not count them."""
    shapes = node._input_metadata
    filled = [
        torch.zeros(m.shape, dtype=m.dtype, device=m.device) if g is None else g
        for g, m in zip(gradients, shapes, strict=True)
    ]
    results = node.apply(*filled)
    results = results if isinstance(results, tuple) else (results,)
    wanted = (r for r, needed in zip(results, node.needs_input_grad, strict=False) if needed)
    return (
        next(wanted, None) if following is not None else None
        for following, _ in node.next_functions
    )


def _fit(gradient: Tensor, metadata: Any) -> Tensor:
    """What the engine's own validation does: undo broadcasting and match the input's dtype."""
    if gradient.shape != tuple(metadata.shape):  # metadata holds a list, which no torch.Size equals
        gradient = gradient.sum_to_size(metadata.shape)
    if gradient.dtype != metadata.dtype:
        gradient = gradient.to(metadata.dtype)
    return gradient
