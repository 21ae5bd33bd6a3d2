"""Backward as a walk over the autograd graph that can stop at any experts call and go on later.

Nodes are called one by one in decreasing order of their sequence number, which is a topological
order: everything created after an experts call runs before anything created before it. Leaves are
handed out, not accumulated, so the order of every sum is the caller's. Bitwise equal to
`loss.backward()` (docs/design/cut-and-tape.md).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

GraphNode = Any  # torch.autograd.graph.Node, whose private protocol the walk speaks

EVERYTHING = -2
"""Bound below every sequence number: walk to the end."""


def sequence_now() -> int:
    """The sequence number that the next autograd node will get: nodes made before this moment are
    below it."""
    return int(torch._C._autograd._get_sequence_nr())


class TapeWalk:
    """A resumable backward pass over one micro-batch's graph. Run it with grad mode off."""

    def __init__(self, deferred: frozenset[GraphNode] = frozenset()) -> None:
        """`deferred`: leaves that get several gradients (tied weights); they are handed out once,
        at the very end."""
        self._inputs: dict[GraphNode, dict[int, tuple[Tensor, bool]]] = {}
        self._heap: list[tuple[int, int, GraphNode]] = []
        self._arrivals = 0
        self._deferred = deferred

    def add(self, tensor: Tensor, gradient: Tensor) -> None:
        """Say that `tensor` (an output of the graph, or an input of an experts call) received this
        gradient."""
        edge = get_gradient_edge(tensor)
        self._push(edge.node, edge.output_nr, gradient)

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
        while self._heap and -self._heap[0][0] >= bound:
            node = heapq.heappop(self._heap)[2]
            inputs = self._inputs.pop(node)
            if _is_leaf(node):
                yield node, inputs[0][0]
                continue
            gradients: list[Tensor | None] = [None] * len(node._input_metadata)
            for index, (gradient, _) in inputs.items():
                gradients[index] = gradient
            # What the node has used up must not outlive it: memory peaks here.
            del inputs, gradient
            self._run(node, gradients)
            del node

    def _run(self, node: GraphNode, gradients: list[Tensor | None]) -> None:
        """Call a node and hand its results to the nodes that follow; empties `gradients`."""
        call = _call if callable(node) else _call_python
        results = call(node, gradients)
        gradients.clear()
        for (following, index), gradient in zip(node.next_functions, results, strict=False):
            if following is not None and gradient is not None:
                self._push(following, index, _fit(gradient, following._input_metadata[index]))

    def _push(self, node: GraphNode, index: int, gradient: Tensor) -> None:
        inputs = self._inputs.get(node)
        if inputs is None:
            inputs = self._inputs[node] = {}
            self._arrivals += 1
            heapq.heappush(self._heap, (-self._rank(node), self._arrivals, node))
        held = inputs.get(index)
        if held is None:
            inputs[index] = (gradient, False)
        elif held[1]:  # a sum that this walk made: nobody else holds it
            held[0].add_(gradient)
        else:
            inputs[index] = (held[0] + gradient, True)

    def _rank(self, node: GraphNode) -> int:
        return EVERYTHING if node in self._deferred else int(node._sequence_nr())


def leaf_node(tensor: Tensor) -> GraphNode:
    """The graph node that stands for a leaf tensor; the walk yields it with the leaf's gradient."""
    edge: GradientEdge = get_gradient_edge(tensor)
    return edge.node


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
