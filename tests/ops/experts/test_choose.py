"""Which fused operator is taken where."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.experts.choose import candidates, find_fused
from tests.ops.experts.test_reference import site_of

SHAPES = {"gate_up_proj": (32, 64), "down_proj": (64, 16)}


def test_a_processor_has_none() -> None:
    assert not list(candidates("cpu"))
    assert find_fused(SHAPES, torch.device("cpu")) is None


@pytest.mark.gpu
def test_a_gpu_takes_the_kernels() -> None:
    from dougong.models.sites import expert_op
    from dougong.ops.experts.triton_swiglu import GroupedSwiGLU

    assert isinstance(find_fused(SHAPES, torch.device("cuda")), GroupedSwiGLU)
    assert isinstance(expert_op(site_of("qwen3_moe"), torch.device("cuda")), GroupedSwiGLU)


@pytest.mark.gpu
def test_widths_that_are_no_whole_loads_are_left_to_the_plain_form() -> None:
    assert find_fused({"gate_up_proj": (24, 64), "down_proj": (64, 12)}, torch.device("cuda")) is None
