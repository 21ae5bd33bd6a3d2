"""The backward of fused attention, whose order on a GPU is fixed only where torch is strict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dougong.accelerators.base import switch_on_determinism
from dougong.accelerators.cuda import Cuda
from dougong.parallel.segments.tape import TapeWalk, leaf_node
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


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
    """Whether operators whose name holds `backward` ran strictly, and whether others did."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_strict = not torch.is_deterministic_algorithms_warn_only_enabled()
        self.seen.add(("attention" in str(func) and "backward" in str(func), is_strict))
        return func(*args, **(kwargs or {}))


def test_attention_s_backward_is_strict() -> None:
    """While torch merely warns, the backward of fused attention on a GPU has no fixed order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switch_on_determinism()
    try:
        with Strictness() as watched:
            walk_attention(16, torch.device("cpu"), torch.float32)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    assert (True, True) in watched.seen and (True, False) not in watched.seen
    assert (False, False) in watched.seen, "all else runs, and merely warns, without a deterministic form"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_a_gpu_gives_the_same_bits_every_time(dtype: torch.dtype) -> None:
    device = Cuda().open(0)
    for length in (1024, 4096):
        first = walk_attention(length, device, dtype)
        for _ in range(10):
            assert all(torch.equal(a, b) for a, b in zip(first, walk_attention(length, device, dtype), strict=True))
