"""DeepSpeed's CPU Adam as we call it: torch's AdamW to rounding, with bits that depend on a tensor's history alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.deepspeed.adam_build import load_adam
from dougong.deepspeed.cpu_adam import LANES, PIECE, AdamNumbers, AdamRates, CpuAdam
from tests.jobs import make_job
from torch import Tensor

pytestmark = pytest.mark.simulated  # it is compiled

ROOT = Path(__file__).resolve().parents[2]
BETAS, EPS = (0.8, 0.95), 1e-6
SIZES = (1, 7, LANES - 1, LANES, LANES + 1, 1000, 4 * LANES, 10007)


@pytest.fixture(scope="module")
def library() -> Any:
    return load_adam(make_job(optimizer={"device": "host"}))


def drawn(seed: int, size: int, offset: int = 0) -> Tensor:
    """Random numbers that begin so many places behind where memory begins."""
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    memory = torch.zeros(offset + size)
    memory[offset:] = values
    return memory[offset:]


def trained(library: Any, size: int, steps: range, offset: int = 0, state: AdamNumbers | None = None) -> AdamNumbers:
    weight, exp_avg, exp_avg_sq = (drawn(0, size, offset), *(torch.zeros(offset + size)[offset:] for _ in range(2)))
    if state is not None:
        weight, exp_avg, exp_avg_sq = state.weight.clone(), state.exp_avg.clone(), state.exp_avg_sq.clone()
    adam, numbers = CpuAdam(library, BETAS, EPS), None
    for step in steps:
        numbers = AdamNumbers(weight, drawn(step, size, offset), exp_avg, exp_avg_sq)
        adam.update(numbers, AdamRates(1e-2 / step, 0.3, step))
    assert numbers is not None
    return numbers


def bits(numbers: AdamNumbers) -> str:
    values = (numbers.weight, numbers.exp_avg, numbers.exp_avg_sq)
    return hashlib.sha256(b"".join(value.contiguous().numpy().tobytes() for value in values)).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_it_is_torchs_adamw_to_rounding(size: int, library: Any) -> None:
    ours = trained(library, size, range(1, 6))
    parameter = torch.nn.Parameter(drawn(0, size))
    torchs = torch.optim.AdamW([parameter], betas=BETAS, eps=EPS, weight_decay=0.3, fused=True)
    for step in range(1, 6):
        torchs.param_groups[0]["lr"] = 1e-2 / step
        parameter.grad = drawn(step, size)
        torchs.step()
    torch.testing.assert_close(ours.weight, parameter.detach(), rtol=2e-6, atol=2e-7)
    # A square loses twice as much by its factor's rounding: 1 - 0.95 in float32.
    torch.testing.assert_close(ours.exp_avg_sq, torchs.state[parameter]["exp_avg_sq"], rtol=4e-6, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_no_bit_depends_on_where_memory_begins_or_on_neighbours(size: int, library: Any) -> None:
    alone = bits(trained(library, size, range(1, 4)))
    assert {bits(trained(library, size, range(1, 4), offset)) for offset in (1, 3, 17, 64)} == {alone}
    whole = trained(library, size + LANES, range(1, 4))
    assert torch.equal(whole.part(0, LANES).weight, trained(library, size + LANES, range(1, 4)).part(0, LANES).weight)


def test_a_tensor_in_pieces_has_the_bits_of_the_whole_one(library: Any) -> None:
    size = 5 * LANES + 9
    whole = trained(library, size, range(1, 4))
    weight, moments = drawn(0, size), (torch.zeros(size), torch.zeros(size))
    adam = CpuAdam(library, BETAS, EPS)
    for step in range(1, 4):
        numbers = AdamNumbers(weight, drawn(step, size), *moments)
        for begin in range(0, size, 2 * LANES):
            adam.update(numbers.part(begin, begin + 2 * LANES), AdamRates(1e-2 / step, 0.3, step))
    assert bits(AdamNumbers(weight, weight, *moments)) == bits(whole)


def test_a_long_tensor_is_cut_and_none_of_it_is_left_out(library: Any) -> None:
    """The library keeps the interpreter to itself for one piece at most."""
    size = PIECE + LANES + 1
    found = trained(library, size, range(1, 2))
    assert [len(piece.weight) for piece in found.pieces()] == [PIECE, LANES + 1]
    assert bool((found.weight != drawn(0, size)).all())


def test_going_on_from_a_state_has_the_bits_of_the_unbroken_run(library: Any) -> None:
    """The library itself does not: it multiplies the betas' powers up from call to call, and takes them by `pow` when
    it begins later."""
    whole = trained(library, 1000, range(1, 9))
    first = trained(library, 1000, range(1, 5))
    trained(library, 17, range(1, 3))  # somebody else's call in between
    assert bits(trained(library, 1000, range(5, 9), state=first)) == bits(whole)


@pytest.mark.slow
def test_the_number_of_threads_changes_no_bit() -> None:
    code = (
        "import json, torch\n"
        "from dougong.deepspeed.adam_build import load_adam\n"
        "from tests.deepspeed.test_cpu_adam import bits, trained, SIZES\n"
        "from tests.jobs import make_job\n"
        "library = load_adam(make_job(optimizer={'device': 'host'}))\n"
        "print(json.dumps([torch.get_num_threads(), [bits(trained(library, s, range(1, 4))) for s in SIZES]]))\n"
    )
    found = []
    for threads in ("1", "2"):
        paths = os.pathsep.join([str(ROOT), *sys.path])
        number = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        environment = {**os.environ, **number, "PYTHONPATH": paths}
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    assert [threads for threads, _ in found] == [1, 2] and found[0][1] == found[1][1]
