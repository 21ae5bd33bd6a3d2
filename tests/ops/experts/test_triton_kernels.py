"""Grouped experts in Triton: the same checks in its interpreter on the CPU, tiny, and on a GPU where there is one.

What the hardware does with a tile only the GPU's half can show; the interpreter shows which rows, weights and masks are
taken, and in which order sums are made.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from dougong.control.environment import temporary_variables
from dougong.ops.experts.tile_tables import Tile, Tiles, choose_tiles
from dougong.ops.experts.trial_run import is_sound
from tests.ops.experts.grouped import Counts, Size, by_block, exact, largest_error, make_problem, run

TINY = Tiles(16, Tile(16, 16, 4, 1), Tile(16, 16, 4, 1), Tile(32, 16, 4, 1), Tile(16, 8, 4, 1))
"""For the interpreter, which takes a millisecond for a tile."""
LANES: Counts = [[5, 18, 0], [34, 1, 7], [3, 0, 16]]
"""Blocks of less than a tile, of one, and of more; empty ones; tiles that hold rows of two lanes."""

Check = Callable[..., Any]
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process in which triton was imported as an interpreter."""
    with (
        temporary_variables({"TRITON_INTERPRET": "1"}),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        yield pool


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def call(request: pytest.FixtureRequest) -> Call:
    """call(check, *arguments): run `check(device, *arguments)` there."""
    if request.param == "cuda":
        return lambda check, *arguments: check("cuda", *arguments)
    pool = request.getfixturevalue("interpreter")
    return lambda check, *arguments: pool.submit(check, "cpu", *arguments).result()


def make_op(device: str) -> Any:
    from dougong.ops.experts.triton_kernels import device_arch
    from dougong.ops.experts.triton_swiglu import GroupedSwiGLU

    if device == "cpu":
        torch.set_num_threads(1)
        return GroupedSwiGLU(lambda dtype: TINY)
    return GroupedSwiGLU(lambda dtype: choose_tiles(dtype, device_arch()))


def scaled(device: str, size: Size, counts: Counts) -> tuple[Size, Counts]:
    """A GPU gets eight times of everything: its tiles are that much larger."""
    if device == "cpu":
        return size, counts
    return Size(8 * size.hidden, 8 * size.inner, size.dtype, device), [[8 * c for c in lane] for lane in counts]


def error(device: str, size: Size, counts: Counts) -> float:
    problem = make_problem(*scaled(device, size, counts))
    return largest_error(run(make_op(device), problem), exact(problem))


@pytest.mark.parametrize(("hidden", "inner"), [(32, 32), (24, 40), (16, 8)])
def test_float32_agrees_with_float64(call: Call, hidden: int, inner: int) -> None:
    """Sizes that fill tiles and sizes that do not. 3e-6 of a tensor's largest value: rounding of float32 sums."""
    assert call(error, Size(hidden, inner), LANES) < 3e-6


def test_bfloat16_agrees_with_float64(call: Call) -> None:
    """2 % of the largest value: what is between the two products is rounded to bfloat16 (2^-9; the interpreter cuts the
    digits off, 2^-8), sums are not."""
    assert call(error, Size(32, 16, torch.bfloat16), LANES) < 0.02


@pytest.mark.parametrize("counts", [[[0, 0]], [[0, 1]], [[0, 0], [2, 0]]])
def test_hardly_any_rows(call: Call, counts: Counts) -> None:
    assert call(error_or_nothing, counts) < 3e-6


def error_or_nothing(device: str, counts: Counts) -> float:
    problem = make_problem(Size(16, 8, device=device), counts)
    result = run(make_op(device), problem)
    if problem.blocks:
        return largest_error(result, exact(problem))
    return max(float(g.abs().max()) for g in list(result.values())[2:])  # y and dx have no rows


COMPOSITIONS: list[Counts] = [
    [[5, 18, 0], [34, 1, 7], [3, 0, 16]],
    [[5, 0, 0], [34, 0, 0], [3, 0, 0]],
    [[40, 18, 20], [34, 30, 7], [16, 40, 16]],
    [[0, 18, 2], [34, 2, 16], [0, 20, 0]],
]


def rows_that_changed(device: str, size: Size) -> tuple[int, list[Any]]:
    """How many blocks were compared over the compositions; those whose common rows have other bits."""
    seen: dict[Any, torch.Tensor] = {}
    compared, changed = 0, []
    for counts in COMPOSITIONS:
        problem = make_problem(*scaled(device, size, counts))
        for key, rows in by_block(problem, run(make_op(device), problem)).items():
            before = seen.setdefault(key, rows)
            common = min(len(before), len(rows))
            compared += before is not rows
            if not torch.equal(before[:common], rows[:common]):
                changed.append(key)
    return compared, changed


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_a_rows_bits_do_not_depend_on_its_neighbours(call: Call, dtype: torch.dtype) -> None:
    """Other experts, other lanes and other rows of its own block come and go, and shift it to other tiles."""
    assert call(rows_that_changed, Size(32, 16, dtype)) == (32, [])


def gradient_bits(device: str, size: Size, counts: Counts) -> list[torch.Tensor]:
    """Weight gradients of expert 0."""
    result = run(make_op(device), make_problem(*scaled(device, size, counts)))
    return [result[0, name].cpu() for name in ("gate_up_proj", "down_proj")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_gradients_depend_on_the_experts_own_rows_alone(call: Call, dtype: torch.dtype) -> None:
    size = Size(32, 16, dtype)
    alone = call(gradient_bits, size, [[20], [34], [3]])
    for others in ([[20, 0], [34, 9], [3, 40]], [[20, 17], [34, 0], [3, 1]]):
        assert all(torch.equal(a, b) for a, b in zip(alone, call(gradient_bits, size, others), strict=True))


def lane_by_lane(device: str, size: Size, counts: Counts) -> tuple[bool, bool]:
    """Whether one wave of all lanes has the bits of one wave for each lane in order; and of them in reverse."""
    size, counts = scaled(device, size, counts)
    together = run(make_op(device), make_problem(size, counts))
    answers = []
    for order in (range(len(counts)), reversed(range(len(counts)))):
        grads = {
            e: {n: torch.zeros(t.shape, device=device) for n, t in size.weights(e).items()}
            for e in range(len(counts[0]))
        }
        for lane in order:
            own = [of if number == lane else [0] * len(of) for number, of in enumerate(counts)]
            run(make_op(device), make_problem(size, own), grads)
        answers.append(all(torch.equal(together[e, n], g) for e, of in grads.items() for n, g in of.items()))
    return answers[0], answers[1]


def test_lanes_are_added_in_order_each_as_a_sum_of_its_own(call: Call) -> None:
    """One wave adds what a wave for each lane does; in another order the bits are others, or nothing could be seen."""
    assert call(lane_by_lane, Size(32, 16), [[20, 3], [34, 1], [3, 18]]) == (True, False)


def run_to_run(device: str, size: Size, counts: Counts) -> bool:
    problem = make_problem(*scaled(device, size, counts))
    first, second = run(make_op(device), problem), run(make_op(device), problem)
    return all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same_bits_every_time(dtype: torch.dtype) -> None:
    assert run_to_run("cuda", Size(64, 32, dtype), [[100, 40, 3], [60, 90, 50]])


def misuse(device: str, dtype: torch.dtype, strided: bool) -> str:
    problem = make_problem(Size(16, 8, device=device), [[2]])
    weights = problem.tensors[0]["down_proj"].to(dtype)
    problem.tensors[0]["down_proj"] = weights.t().contiguous().t() if strided else weights  # type: ignore[index]
    try:
        run(make_op(device), problem)
    except AssertionError as failed:
        return str(failed)
    return "taken"


@pytest.mark.parametrize(("dtype", "strided"), [(torch.bfloat16, False), (torch.float32, True)])
def test_tensors_that_a_kernel_would_misread_are_refused(call: Call, dtype: torch.dtype, strided: bool) -> None:
    assert "down_proj: kernels take contiguous" in call(misuse, dtype, strided)


def sound(device: str) -> bool:
    return is_sound(make_op(device), {"gate_up_proj": (32, 24), "down_proj": (24, 16)}, torch.device(device))


def test_the_check_before_use_finds_the_kernels_sound(call: Call) -> None:
    assert call(sound)
