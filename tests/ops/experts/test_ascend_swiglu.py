"""Ascend's experts against stand-ins of torch_npu's operators on the CPU, of the same form and with the same limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from dougong.ops.experts import ascend_swiglu
from dougong.ops.experts.ascend_swiglu import NpuSwiGLU, grouped_products, single_products
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert
from dougong.ops.experts.trial_run import is_sound
from tests.ops.experts.grouped import Size, exact, largest_error, make_problem, run
from torch import Tensor

SHAPES = {"gate_up_proj": (32, 64), "down_proj": (64, 16)}
COUNTS = [[5, 18, 0], [34, 1, 7]]

# torch_npu 2.x, op-plugin: op_plugin_functions.yaml.
GROUPED_MATMUL = (
    "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None, "
    "Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None, "
    "Tensor[]? per_token_scale=None, Tensor? group_list=None, Tensor[]? activation_input=None, "
    "Tensor[]? activation_quant_scale=None, Tensor[]? activation_quant_offset=None, int? split_item=0, "
    "int? group_type=None, int? group_list_type=0, int? act_type=0, int[]? tuning_config=None, "
    "int? output_dtype=None) -> Tensor[]"
)


def grouped_matmul(
    x: Sequence[Tensor], weight: Sequence[Tensor], *, split_item: int = 0, group_type: int | None = None
) -> list[Tensor]:
    """The rules of the real one for groups with tensors of their own. (The dispatcher leaves defaults out.)"""
    assert (group_type, split_item) == (-1, 0)
    assert 0 < len(x) == len(weight) <= 128
    assert {t.dim() for t in (*x, *weight)} == {2} and len({t.dtype for t in (*x, *weight)}) == 1
    return [a @ b for a, b in zip(x, weight, strict=True)]


def swiglu(packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    return F.silu(gate) * up


def swiglu_backward(grad_output: Tensor, packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    return torch.cat([torch.ops.aten.silu_backward(grad_output * up, gate), grad_output * F.silu(gate)], dim)


@pytest.fixture(scope="module", autouse=True)
def _stand_ins() -> Iterator[None]:
    assert not ascend_swiglu.is_available() and not list(ascend_swiglu.expert_operators())
    with torch.library._scoped_library("npu", "DEF") as library:
        library.define(GROUPED_MATMUL)
        library.define("npu_swiglu(Tensor self, int dim=-1) -> Tensor")
        library.define("npu_swiglu_backward(Tensor grad_output, Tensor self, int dim=-1) -> Tensor")
        for function in (grouped_matmul, swiglu, swiglu_backward):
            library.impl(f"npu_{function.__name__}", function, "CPU")
        yield


@pytest.mark.parametrize("products", [grouped_products, single_products])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 3e-6), (torch.bfloat16, 0.03)])
def test_agrees_with_float64(products: ascend_swiglu.Products, dtype: torch.dtype, most: float) -> None:
    problem = make_problem(Size(48, 32, dtype), COUNTS)
    assert largest_error(run(NpuSwiGLU(products), problem), exact(problem)) < most


def test_a_product_of_its_own_for_each_block_has_the_definitions_bits() -> None:
    """The stand-ins compute as torch does, so that blocks, weights and sums must be the same ones."""
    problem = make_problem(Size(64, 32), COUNTS)
    ours, theirs = run(NpuSwiGLU(single_products), problem), run(ByBlock(SwiGLUExpert()), problem)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_more_blocks_than_one_call_takes() -> None:
    problem = make_problem(Size(8, 8), [[2, 1] * 70, [1, 2] * 70])
    assert len(problem.blocks) == 280
    assert largest_error(run(NpuSwiGLU(grouped_products), problem), exact(problem)) < 3e-6


def test_no_rows() -> None:
    result = run(NpuSwiGLU(grouped_products), make_problem(Size(8, 8), [[0, 0]]))
    assert all(not t.any() for t in result.values())


def test_the_grouped_form_is_tried_first() -> None:
    assert [op.products for op in ascend_swiglu.expert_operators()] == [grouped_products, single_products]


@pytest.mark.parametrize("products", [grouped_products, single_products])
def test_sound(products: ascend_swiglu.Products) -> None:
    assert is_sound(NpuSwiGLU(products), SHAPES, torch.device("cpu"))


def wrong_weights(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    return [a @ right[0] for a in left]


def cut_by_the_largest(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """Right, but a long sum is cut in two where one of the groups has many rows."""
    if max(map(len, left)) < 32:
        return single_products(left, right)
    half = left[0].shape[1] // 2
    return [a[:, :half] @ b[:half] + a[:, half:] @ b[half:] for a, b in zip(left, right, strict=True)]


@pytest.mark.parametrize("products", [wrong_weights, cut_by_the_largest])
def test_unsound(products: ascend_swiglu.Products) -> None:
    """Other values; and the right values whose bits depend on what shares a call."""
    assert not is_sound(NpuSwiGLU(products), SHAPES, torch.device("cpu"))
