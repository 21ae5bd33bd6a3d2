"""A model of a few layers with an experts call in each, driven by hand through flights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from dougong.parallel.segments.flight import Flight, Forward, pause_at_experts
from dougong.parallel.segments.recompute import Layers
from dougong.parallel.segments.repeats import LayerRepeats
from dougong.parallel.segments.tape import GraphNode, leaf_node
from torch import Tensor, nn

WIDTH, TOKENS = 8, 5


class Layer(nn.Module):
    """Dropout before and behind an experts call; `twist` is done to its hidden states on the way."""

    def __init__(self, site: int | None, twist: Callable[[Layer, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.site, self.twist = site, twist
        self.runs = 0
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, hidden: Tensor, scale: Tensor, *, mask: Any = None) -> Tensor:
        self.runs += 1
        inner = torch.dropout(self.first(self.norm(hidden)).tanh(), 0.3, True) * scale
        if self.twist is not None:
            inner = self.twist(self, inner)
        if self.site is not None:
            weights, index = inner.softmax(-1).topk(2)
            inner = inner + pause_at_experts(self.site, inner, index, weights) * inner
        return hidden + torch.dropout(self.last(inner).sigmoid(), 0.3, True)


class Layered(nn.Module):
    """As many layers as sites; the first has no experts where `is_dense`."""

    def __init__(self, twists: dict[int, Callable[[Layer, Tensor], Tensor]] | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        twists = twists or {}
        sites = (None, 0, 1)
        self.layers = nn.ModuleList([Layer(site, twists.get(n)) for n, site in enumerate(sites)])
        self.scale = nn.Parameter(torch.rand(TOKENS, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        scale = self.scale.exp()  # what layers are given beside has a graph
        for layer in self.layers:
            hidden = layer(hidden, scale, mask={"none": [None, scale]})
        return hidden.square().mean()

    def recompute(self) -> Layered:
        Layers(self, {f"layers.{n}": layer for n, layer in enumerate(self.layers)})
        return self


class Gradients:
    """By the number of the parameter."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {leaf_node(p): name for name, p in model.named_parameters()}
        self.found: dict[str, Tensor] = {}

    def begin(self, leaves: Iterable[GraphNode]) -> None: ...

    def take(self, leaf: GraphNode, gradient: Tensor) -> None:
        self.found[self._names[leaf]] = gradient.clone()

    def end(self) -> None: ...


def answer(hidden: Tensor, weights: Tensor) -> Tensor:
    return (hidden.detach() * 1.5).sin() * weights.detach().sum(-1, keepdim=True)


class Pilot:
    """One flight of a model, a piece at a time."""

    def __init__(self, model: Layered, repeats: LayerRepeats | None, number: int = 0, value: float = 1.0) -> None:
        given = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(number)) * value

        def seed(segment: int) -> None:
            torch.manual_seed(100 * number + segment)

        self.model = model
        self.gradients = Gradients(model)
        self.flight = Flight(Forward(lambda: model(given), seed), True, repeats)
        self.loss = torch.zeros(())

    def pieces(self) -> list[Callable[[], None]]:
        resume, back = self._resume, self._back
        return [self.flight.start, resume, resume, self._turn, back, back, self._end]

    def fly(self) -> Pilot:
        with torch.no_grad():
            for piece in self.pieces():
                piece()
        return self

    def _resume(self) -> None:
        call = self.flight.calls[-1]
        output = answer(call.hidden, call.weights)
        call.forget_hidden()
        self.flight.resume(output)

    def _turn(self) -> None:
        self.loss = self.flight.begin_backward(1.0, self.gradients)

    def _back(self) -> None:
        call, dout = self.flight.backward_to_call(self.gradients)
        self.flight.add_input_gradients(call, dout * 0.5, call.weights.detach() * dout.mean())

    def _end(self) -> None:
        self.flight.end_backward(self.gradients)


def plain(number: int = 0) -> Pilot:
    """What it must come to."""
    return Pilot(Layered(), None, number).fly()


def differing(one: Pilot, other: Pilot) -> list[str]:
    assert one.gradients.found.keys() == other.gradients.found.keys()
    return [n for n, g in one.gradients.found.items() if not torch.equal(g, other.gradients.found[n])]


def num_hooks_off() -> bool:
    """Whether a graph keeps its own tensors here: a layer's hooks, left on the thread's stack, would run it again."""
    one = torch.ones(2, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(one.exp().sum(), one)
    return torch.equal(gradient, one.detach().exp())
