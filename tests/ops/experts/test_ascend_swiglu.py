"""Ascend's experts against stand-ins of torch_npu's operators on the CPU, of the same form and with the same limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dougong.ops.experts import ascend_swiglu
from dougong.ops.experts.ascend_swiglu import NpuSwiGLU, grouped_products, single_products
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert
from dougong.ops.experts.trial_run import is_sound
from tests.ops.experts.ascend_operators import define
from tests.ops.experts.grouped import Size, exact, largest_error, make_problem, run
from torch import Tensor

SHAPES = {"gate_up_proj": (32, 64), "down_proj": (64, 16)}
COUNTS = [[5, 18, 0], [34, 1, 7]]


@pytest.fixture(scope="module", autouse=True)
def _stand_ins() -> Iterator[None]:
    assert not ascend_swiglu.is_available() and not list(ascend_swiglu.expert_operators())
    with torch.library._scoped_library("npu", "DEF") as library:
        define(library, "CPU")
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
