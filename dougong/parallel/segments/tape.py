"""Backward as a walk over the autograd graph that can stop at any experts call and go on later.

Nodes are called one by one in decreasing order of their sequence number, which is a topological
order: everything created after an experts call runs before anything created before it. Leaves are
handed out, not accumulated, so the order of every sum is the caller's. Bitwise equal to
`loss.backward()` (docs/design/cut-and-tape.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, KeysView
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
        self._inputs: dict[GraphNode, dict[int, tuple[Tensor, bool]]] = {}
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
        yield from self._take_complete()
        while self._heap and -self._heap[0][0] >= bound:
            node = heapq.heappop(self._heap)[2]
            inputs = self._inputs.pop(node)
            gradients: list[Tensor | None] = [None] * len(node._input_metadata)
            for index, (gradient, _) in inputs.items():
                gradients[index] = gradient
            # What the node has used up must not outlive it: memory peaks here.
            del inputs, gradient
            self._run(node, gradients)
            del node
            yield from self._take_complete()

    def finish(self) -> Iterator[tuple[GraphNode, Tensor]]:
        """Run what is left, and yield every leaf that is still waiting."""
        yield from self.until(EVERYTHING)
        # A node that got no gradient was never run, and the leaves behind it still count its use.
        for leaf in list(self._inputs):
            yield leaf, self._inputs.pop(leaf)[0][0]

    def take(self, leaf: GraphNode) -> Tensor | None:
        """What a leaf has received, though the walk still waits for more; None: nothing."""
        inputs = self._inputs.pop(leaf, None)
        return None if inputs is None else inputs[0][0]

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
        elif _is_leaf(node):
            self._uses[node] = 1
        else:
            self._following[node] = ()
            waiting.append(node)

    def _run(self, node: GraphNode, gradients: list[Tensor | None]) -> None:
        """Call a node and hand its results to the nodes that follow; empties `gradients`."""
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
            self._add_up(node, index, _fit(gradient, node._input_metadata[index]))
        if node not in self._uses:
            return
        self._uses[node] -= 1
        if not self._uses[node] and node in self._inputs:
            self._complete.append((node, self._inputs.pop(node)[0][0]))

    def _add_up(self, node: GraphNode, index: int, gradient: Tensor) -> None:
        inputs = self._inputs.get(node)
        if inputs is None:
            inputs = self._inputs[node] = {}
            if node not in self._uses:
                self._arrivals += 1
                heapq.heappush(self._heap, (-int(node._sequence_nr()), self._arrivals, node))
        held = inputs.get(index)
        if held is None:
            inputs[index] = (gradient, False)
        elif held[1]:  # a sum that this walk made: nobody else holds it
            held[0].add_(gradient)
        else:
            inputs[index] = (held[0] + gradient, True)

    def _take_complete(self) -> Iterator[tuple[GraphNode, Tensor]]:
        while self._complete:
            yield self._complete.pop(0)


def leaf_node(tensor: Tensor) -> GraphNode:
    """The graph node that stands for a leaf tensor; the walk yields it with the leaf's gradient."""
    edge: GradientEdge = get_gradient_edge(tensor)
    return edge.node


def edge_of(start: Tensor | GradientEdge) -> GradientEdge:
    """The place on the tape at which a tensor's gradient comes in."""
    return get_gradient_edge(start) if isinstance(start, Tensor) else start


def _is_leaf(node: GraphNode) -> bool:
    return type(node).__name__ == "AccumulateGrad"


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
