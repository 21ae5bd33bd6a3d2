"""Which operator is taken: the first fused form that is sound, else the plain one."""

from __future__ import annotations

import pytest
import torch
from dougong.ops.experts.base import ExpertOp
from dougong.ops.experts.choose import FusedForms, choose_expert_op, find_fused
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
    assert find_fused(FusedForms(), SHAPES, CPU) is None


def test_the_first_sound_candidate_is_taken() -> None:
    wrong, first, second = Wrong(SwiGLUExpert()), sound(), sound()
    assert find_fused(FusedForms([wrong, first, second]), SHAPES, CPU) is first
    assert find_fused(FusedForms([wrong]), SHAPES, CPU) is None


def test_later_candidates_are_not_made() -> None:
    def offered():  # type: ignore[no-untyped-def]
        yield sound()
        raise AssertionError("the first was sound")

    assert find_fused(FusedForms(offered()), SHAPES, CPU) is not None


def test_widths_that_are_no_whole_loads_are_left_to_the_plain_form() -> None:
    assert find_fused(FusedForms([sound()]), {"gate_up_proj": (24, 64), "down_proj": (64, 12)}, CPU) is None


def test_a_family_of_swiglu_experts_takes_a_candidate() -> None:
    candidate = sound()
    shapes = site_of("qwen3_moe").shapes
    assert choose_expert_op(family_op("qwen3_moe"), shapes, CPU, "block", FusedForms([candidate])) is candidate


def test_another_family_takes_its_own_code() -> None:
    shapes = site_of("gpt_oss").shapes
    op = choose_expert_op(family_op("gpt_oss"), shapes, CPU, "block", FusedForms([sound()]))
    assert isinstance(op, ByBlock) and not isinstance(op.one, SwiGLUExpert)


@pytest.mark.parametrize(("rows", "height"), [(16, 16), ("expert", None)])
@pytest.mark.parametrize(("family", "form"), [("qwen3_moe", TiledSwiGLU), ("gpt_oss", ByTile)])
def test_rows_name_the_plain_form(family, form, rows, height) -> None:  # type: ignore[no-untyped-def]
    op = choose_expert_op(family_op(family), site_of(family).shapes, CPU, rows)
    assert isinstance(op, form) and op.height == height


class Refused(ByBlock):
    """A library without this dtype, without a compiler, out of shared memory."""

    identity = "grouped by somebody (version 3)"

    def forward(self, x_RH, blocks, tensors, out_RH):  # type: ignore[no-untyped-def]
        if x_RH.dtype == torch.bfloat16:
            raise NotImplementedError("no kernel for bfloat16\nmore lines")
        return super().forward(x_RH, blocks, tensors, out_RH)


def test_a_form_is_tried_in_the_job_s_dtype_and_a_failure_is_told() -> None:
    told: list[str] = []
    refused, second = Refused(SwiGLUExpert()), sound()
    assert find_fused(FusedForms([refused, second], torch.float32, told.append), SHAPES, CPU) is refused and not told
    assert find_fused(FusedForms([refused, second], torch.bfloat16, told.append), SHAPES, CPU) is second
    assert told == [
        "experts are not computed by grouped by somebody (version 3): NotImplementedError: no kernel for bfloat16; a "
        "slower form runs instead"
    ]


def test_other_results_are_told_with_the_dtype() -> None:
    told: list[str] = []
    assert find_fused(FusedForms([Wrong(SwiGLUExpert())], torch.bfloat16, told.append), SHAPES, CPU) is None
    assert told == ["experts are not computed by Wrong: its results in bfloat16 are not those of plain products; a "
                    "slower form runs instead"]  # fmt: skip


def test_a_form_that_cannot_be_made_is_told() -> None:
    def offered():  # type: ignore[no-untyped-def]
        raise OSError("gcc: not found")
        yield sound()

    told: list[str] = []
    assert find_fused(FusedForms(offered(), tell=told.append), SHAPES, CPU) is None
    assert told == ["a fused form of experts cannot be made: OSError: gcc: not found; a slower one runs"]


def test_widths_that_do_not_fit_are_told_only_where_there_is_a_form() -> None:
    told: list[str] = []
    narrow = {"gate_up_proj": (24, 64), "down_proj": (64, 12)}
    assert find_fused(FusedForms((), tell=told.append), narrow, CPU) is None and not told
    assert find_fused(FusedForms([sound()], tell=told.append), narrow, CPU) is None
    (text,) = told
    assert text.startswith("experts of 64 x 12 have no fused form, since a width is no multiple of 8")


def test_a_device_that_has_failed_is_no_reason_for_another_form() -> None:
    class Fails(ByBlock):
        def forward(self, x_RH, blocks, tensors, out_RH):  # type: ignore[no-untyped-def]
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        find_fused(FusedForms([Fails(SwiGLUExpert())]), SHAPES, CPU)


@pytest.mark.gpu
def test_a_gpu_takes_the_kernels() -> None:
    from dougong.ops.experts.triton_swiglu import GroupedSwiGLU, make_grouped

    device = torch.device("cuda")
    assert isinstance(find_fused(FusedForms([make_grouped()]), SHAPES, device), GroupedSwiGLU)
