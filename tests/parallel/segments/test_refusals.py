"""The backward of fused attention, whose order on a GPU is fixed only where torch is strict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dougong.accelerators.base import switch_on_determinism
from dougong.accelerators.cuda import Cuda
from dougong.errors import ModelError
from dougong.parallel.segments.flight import Flight, Forward
from dougong.parallel.segments.tape import TapeWalk, leaf_node
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(autouse=True)
def switched_on() -> Iterator[None]:
    """As a worker's process is, for the time of a test."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switch_on_determinism()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def walk_attention(length: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of queries, keys and values."""
    draw = torch.Generator().manual_seed(1)
    shape = (2, 4, length, 64)
    *inputs, gradient = (torch.randn(shape, generator=draw).to(device, dtype) for _ in range(4))
    for tensor in inputs:
        tensor.requires_grad_()
    with torch.enable_grad():
        output = F.scaled_dot_product_attention(*inputs, is_causal=True)
    walk = TapeWalk([output])
    with torch.no_grad():
        walk.add(output, gradient)
        found = dict(walk.finish())
    return [found[leaf_node(tensor)] for tensor in inputs]


class Strictness(TorchDispatchMode):
    """Whether operators ran strictly, by whether their name tells attention's backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_strict = not torch.is_deterministic_algorithms_warn_only_enabled()
        self.seen.add(("attention" in str(func) and "backward" in str(func), is_strict))
        return func(*args, **(kwargs or {}))


def test_everything_is_strict() -> None:
    """While torch merely warns, the backward of fused attention on a GPU has no fixed order."""
    with Strictness() as watched:
        walk_attention(16, torch.device("cpu"), torch.float32)
    assert watched.seen == {(True, True), (False, True)}


class Puts(nn.Module):
    """Uses an operator that has no deterministic form on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self) -> Tensor:
        return (self.weight * 1).put_(torch.tensor([0, 1]), torch.zeros(2)).sum()


class Model(nn.Module):
    """Of two layers, the second of which does so."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), Puts()])

    def forward(self) -> Tensor:
        loss: Tensor = self.layers[1]()
        return loss


def test_an_operator_without_a_deterministic_form_is_refused_with_its_name_and_its_module() -> None:
    with pytest.raises(ModelError, match=r"layers\.1 \(Puts\): torch's operator put_ has no deterministic form"):
        Flight(Forward(Model()), with_gradients=True).start()


class PutsInBackward(torch.autograd.Function):
    """The same on the way back."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone().put_(torch.tensor([0]), torch.zeros(1))


def test_one_of_a_backward_is_refused_with_its_node_s_name() -> None:
    output = PutsInBackward.apply(torch.ones(3, requires_grad=True))
    walk = TapeWalk([output])
    walk.add(output, torch.ones(3))
    with (
        pytest.raises(ModelError, match=r"backward \(PutsInBackwardBackward\): torch's operator put_ has no"),
        torch.no_grad(),
    ):
        list(walk.finish())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_a_gpu_gives_the_same_bits_every_time(dtype: torch.dtype) -> None:
    device = Cuda().open(0)
    for length in (1024, 4096):
        first = walk_attention(length, device, dtype)
        for _ in range(10):
            assert all(torch.equal(a, b) for a, b in zip(first, walk_attention(length, device, dtype), strict=True))
