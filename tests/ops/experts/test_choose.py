"""Which operator is taken: the first fused form that is sound, else the plain one."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.experts.base import ExpertOp
from dougong.ops.experts.choose import choose_expert_op, find_fused
from dougong.ops.experts.reference import ByBlock, ByTile, SwiGLUExpert, TiledSwiGLU
from tests.ops.experts.test_reference import family_op, site_of

SHAPES = {"gate_up_proj": (32, 64), "down_proj": (64, 16)}
CPU = torch.device("cpu")


class Wrong(ByBlock):
    """Answers are twice too large."""

    def forward(self, x_RH, blocks, tensors, out_RH):  # type: ignore[no-untyped-def]
        saved = super().forward(x_RH, blocks, tensors, out_RH)
        out_RH.mul_(2)
        return saved


def sound() -> ExpertOp:
    return ByBlock(SwiGLUExpert())


def test_without_candidates_there_is_no_fused_form() -> None:
    assert find_fused((), SHAPES, CPU) is None


def test_the_first_sound_candidate_is_taken() -> None:
    wrong, first, second = Wrong(SwiGLUExpert()), sound(), sound()
    assert find_fused([wrong, first, second], SHAPES, CPU) is first
    assert find_fused([wrong], SHAPES, CPU) is None


def test_later_candidates_are_not_made() -> None:
    def offered():  # type: ignore[no-untyped-def]
        yield sound()
        raise AssertionError("the first was sound")

    assert find_fused(offered(), SHAPES, CPU) is not None


def test_widths_that_are_no_whole_loads_are_left_to_the_plain_form() -> None:
    assert find_fused([sound()], {"gate_up_proj": (24, 64), "down_proj": (64, 12)}, CPU) is None


def test_a_family_of_swiglu_experts_takes_a_candidate() -> None:
    candidate = sound()
    shapes = site_of("qwen3_moe").shapes
    assert choose_expert_op(family_op("qwen3_moe"), shapes, CPU, "block", [candidate]) is candidate


def test_another_family_takes_its_own_code() -> None:
    shapes = site_of("gpt_oss").shapes
    op = choose_expert_op(family_op("gpt_oss"), shapes, CPU, "block", [sound()])
    assert isinstance(op, ByBlock) and not isinstance(op.one, SwiGLUExpert)


@pytest.mark.parametrize(("rows", "height"), [(16, 16), ("expert", None)])
@pytest.mark.parametrize(("family", "form"), [("qwen3_moe", TiledSwiGLU), ("gpt_oss", ByTile)])
def test_rows_name_the_plain_form(family, form, rows, height) -> None:  # type: ignore[no-untyped-def]
    op = choose_expert_op(family_op(family), site_of(family).shapes, CPU, rows)
    assert isinstance(op, form) and op.height == height


@pytest.mark.gpu
def test_a_gpu_takes_the_kernels() -> None:
    from dougong.ops.experts.triton_swiglu import GroupedSwiGLU, make_grouped

    device = torch.device("cuda")
    assert isinstance(find_fused([make_grouped()], SHAPES, device), GroupedSwiGLU)
