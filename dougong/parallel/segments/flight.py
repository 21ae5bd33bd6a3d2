"""One micro-batch in flight: its forward is a greenlet that pauses at every experts call, its
backward a walk over the tape.

The model's code does not know that it was paused. Grad mode is on only while the model runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from dougong.errors import ModelError
from dougong.parallel.segments.layer_hooks import LayerHooks
from dougong.parallel.segments.layer_values import INSTEAD
from dougong.parallel.segments.refusals import refuse_absent, refuse_in_forward
from dougong.parallel.segments.repeats import LayerRepeats
from dougong.parallel.segments.tape import GraphNode, TapeWalk, edge_of, leaf_node, sequence_now
from dougong.parallel.segments.unit_spans import UnitSpans, UnitUse

USED_ELSEWHERE = (
    "the model uses its experts' weights outside of the experts call, where they cannot be "
    "distributed; this family is not supported"
)


class GradientSink(Protocol):
    """Takes the gradients of one micro-batch's leaves."""

    def begin(self, leaves: Iterable[GraphNode]) -> None:
        """The backward begins. No leaf but these gets a gradient; one of them may get none."""
        ...

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        """A leaf's gradient is complete; no leaf has two."""
        ...

    def end(self) -> None:
        """The backward has ended: nothing more comes."""
        ...


@dataclass(frozen=True)
class RealTokens:
    """Those of a micro-batch that are not padding: `mask_T` bool [T], on its device; `number`: how
    many they are."""

    mask_T: Tensor
    number: int


@dataclass(frozen=True)
class Forward:
    """A micro-batch's forward: `run` returns the loss; `before_segment(i)` is called before segment
    i runs, so that random numbers belong to the segment and not to what ran before it in the
    process; `real`: its tokens without padding (None: all are)."""

    run: Callable[[], Tensor]
    before_segment: Callable[[int], None] = lambda segment: None
    real: RealTokens | None = None


@dataclass
class ExpertsCall:
    """A paused experts call: what the model asked, and where on the tape it stands.

    hidden [T, H]; index [T, K] integer (-1: no expert); weights [T, K]. `output` is the leaf [T, H]
    that the model went on with. `sequence`: the number of the next autograd node at the pause; what
    the model computes from `output` has numbers from there on.
    """

    site: int
    hidden: Tensor
    index: Tensor
    weights: Tensor
    sequence: int
    output: Tensor | None = None

    def __post_init__(self) -> None:
        self._edges = _edge(self.hidden), _edge(self.weights)

    @property
    def edges(self) -> tuple[GradientEdge | None, GradientEdge | None]:
        """Where the gradients of hidden and of weights come in; None for one that was not computed
        from trained tensors."""
        return self._edges

    def forget_hidden(self) -> None:
        """Let the values of `hidden` go, once the rows have been sent: the backward needs its place
        on the tape alone. It keeps its shape; who computes with it gets an error."""
        self.hidden = torch.empty_like(self.hidden, device="meta")


def _edge(tensor: Tensor) -> GradientEdge | None:
    return edge_of(tensor) if tensor.requires_grad else None


def pause_at_experts(site: int, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Called by the model in place of its experts: hands the call to the flight's owner and returns
    the experts' output."""
    call = ExpertsCall(site, hidden, index, weights, sequence_now())
    owner, hooks = getcurrent().parent, LayerHooks.here()
    if hooks is None:
        output: Tensor = owner.switch(call)
        return output
    if not hooks.is_open:
        raise ModelError(
            f"experts call {site} comes from outside of the layers that run again (recompute: "
            f"layers); {INSTEAD}"
        )
    with hooks.aside():
        output = owner.switch(call)
    hooks.answered(call)
    return output


def note_on_flight(value: Any) -> None:
    """Called by a hook in the model: keep something of the forward that is running, for the
    flight's owner. Outside of a flight it is lost."""
    notes = getattr(getcurrent(), "notes", None)
    if notes is not None:
        notes.append(value)


class Flight:
    """One lane's micro-batch: resume it forward with outputs, then backward with gradients."""

    def __init__(
        self,
        forward: Forward,
        with_gradients: bool,
        repeats: LayerRepeats | None = None,
        units: UnitUse | None = None,
    ) -> None:
        """`repeats`: is told of layers that run again. Those that were made to (`Layers`) then keep
        nothing of their forward; None: they keep it. `units`: has the tensors of those modules
        there that tell of themselves (`tell_units`); None: all are there."""
        self._forward = forward
        self._greenlet = greenlet(forward.run)
        self.notes: list[Any] = []
        self._greenlet.notes = self.notes
        self._with_gradients = with_gradients
        self._walk: TapeWalk | None = None
        self.calls: list[ExpertsCall] = []
        self.loss: Tensor | None = None
        self._added_losses: list[Tensor] = []
        if repeats is not None and with_gradients:
            LayerHooks(repeats).belongs_to(self._greenlet)
        self._spans = None if units is None else UnitSpans(units, with_gradients)
        if self._spans is not None:
            self._spans.belongs_to(self._greenlet)

    @property
    def real(self) -> RealTokens | None:
        """Its tokens without padding; None: all are."""
        return self._forward.real

    def start(self) -> None:
        """Run to the first experts call (or to the end)."""
        self._switch()

    def resume(self, output: Tensor) -> None:
        """Go on with the experts' output [T, H] to the next call (or to the end, which sets
        `loss`)."""
        call = self.calls[-1]
        # A leaf of its own: the tape is cut here. The walk back ends at this leaf, and its gradient
        # goes to the experts instead of into a graph.
        call.output = output.detach().requires_grad_(self._with_gradients)
        self._switch(call.output)

    def _switch(self, *values: Tensor) -> None:
        self._forward.before_segment(len(self.calls))
        try:
            with torch.set_grad_enabled(self._with_gradients):
                result = self._greenlet.switch(*values)
        except RuntimeError as error:
            refuse_in_forward(error)
            if self._spans is not None:
                refuse_absent(error)
            # Experts' own parameters have no memory, so most operators raise over them. Where one
            # does not, the gradient of such a leaf is refused (`dense.gradients`).
            outputs = [call.output for call in self.calls]
            if uses_tensors_without_memory(self._forward, outputs, self._with_gradients):
                raise ModelError(f"{USED_ELSEWHERE}: {error}") from error
            raise
        if self._greenlet.dead:
            self.loss = result
            computed = [result]
        else:
            self.calls.append(result)
            computed = [result.hidden, result.weights]
        self._refuse_without_memory(computed)

    def _refuse_without_memory(self, computed: list[Tensor]) -> None:
        """What is computed from experts' own parameters alone has no memory either."""
        if _holds_meta(computed):
            raise ModelError(USED_ELSEWHERE)

    def add_loss(self, loss: Tensor) -> None:
        """Add a scalar with a graph to what the backward starts from, between the micro-batch's
        forward and its backward. May be called several times; the order of the calls is the order
        in which gradients of the same tensor are added."""
        self._added_losses.append(loss)

    def begin_backward(self, scale: float, sink: GradientSink) -> Tensor:
        """Start the walk from the loss and those of `add_loss`, each weighted by `scale`; returns
        the loss's value, without what was added, and lets the graph go."""
        assert self.loss is not None, "backward before the forward has ended"
        self._walk = TapeWalk(self._starts())
        sink.begin(self._walk.leaves)
        value = self.loss.detach()
        self._walk.add(self.loss, torch.full_like(value, scale))
        # Each is a start of the walk of its own: a sum of them would be one more node.
        for added in self._added_losses:
            self._walk.add(added, torch.full_like(added, scale))
        self.loss = None
        self._added_losses.clear()
        self.notes.clear()
        return value

    def _starts(self) -> Iterator[Tensor | GradientEdge]:
        """Where gradients come in from outside of the graph: at the losses, and at the inputs of
        every experts call."""
        assert self.loss is not None
        yield self.loss
        yield from self._added_losses
        for call in self.calls:
            yield from (edge for edge in call.edges if edge is not None)

    def backward_to_call(self, sink: GradientSink) -> tuple[ExpertsCall, Tensor]:
        """Walk back to the newest experts call; returns it with the gradient [T, H] of its
        output."""
        call = self.calls.pop()
        assert self._walk is not None and call.output is not None
        # What lies behind the call was made after it, so its nodes have larger sequence numbers,
        # those of segments before it smaller ones: the bound is the segment's border.
        output_leaf = leaf_node(call.output)
        gradient = None
        for node, value in self._until(self._walk, call.sequence):
            if node is output_leaf:
                gradient = value
            else:
                sink.take(node, value)
        if gradient is None:
            gradient = self._walk.take(output_leaf)
        return call, torch.zeros_like(call.output) if gradient is None else gradient

    def add_input_gradients(self, call: ExpertsCall, dhidden: Tensor, dweights: Tensor) -> None:
        """The experts' gradients of a call's inputs have come: they join the walk."""
        assert self._walk is not None
        given = (call.hidden.dtype, dhidden), (call.weights.dtype, dweights)
        for edge, (dtype, gradient) in zip(call.edges, given, strict=True):
            if edge is not None:
                self._walk.add(edge, gradient.to(dtype))

    def end_backward(self, sink: GradientSink) -> None:
        """Walk what is left, before the first experts call."""
        assert self._walk is not None
        walked = self._walk.finish() if self._spans is None else self._spans.finish(self._walk)
        for node, value in walked:
            sink.take(node, value)
        sink.end()
        self._walk = None

    def _until(self, walk: TapeWalk, bound: int) -> Iterator[tuple[GraphNode, Tensor]]:
        return walk.until(bound) if self._spans is None else self._spans.walk(walk, bound)


def uses_tensors_without_memory(
    forward: Forward, outputs: Iterable[Tensor | None], with_gradients: bool
) -> bool:
    """Whether a forward that has raised fails in an operator that was given a tensor on the meta
    device.

    torch raises several classes with several texts for that, so the forward is run once more, from
    pause to pause, and its operators are looked at. Nothing of it is kept.
    """
    watch = _Watch()
    replay = greenlet(forward.run)
    with contextlib.suppress(Exception), watch, torch.set_grad_enabled(with_gradients):
        forward.before_segment(0)
        replay.switch()
        for number, output in enumerate(outputs, 1):
            forward.before_segment(number)
            replay.switch(output)
    return watch.found


class _Watch(TorchFunctionMode):
    """Sees every operator that Python code calls, and whether one raises over a meta tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        try:
            return function(*args, **(kwargs or {}))
        except RuntimeError:
            self.found = _holds_meta((args, tuple((kwargs or {}).values())))
            raise


def _holds_meta(value: Any) -> bool:
    """Whether an operator's argument is, or is a list of, a tensor without memory."""
    if isinstance(value, list | tuple):
        return any(_holds_meta(entry) for entry in value)
    return isinstance(value, Tensor) and value.is_meta
