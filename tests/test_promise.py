"""The promise: a job's bits depend on the job file alone, not on how many workers run it, how lanes and experts are
spread, or where it was stopped and resumed.

Weights and optimizer state are compared after every step, not losses alone: two runs with other weights may well have
the same loss. The last tests are the controls: what is not promised does differ at these very shapes.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.families import config_values
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.training.running import Order, digests, run, token_file

STEPS, FEW_STEPS = 20, 6
LAYOUTS = ("B", "BB", "BBB", "AEE", "ABEE")
"""Workers by letter: A attention, E experts, B both. 8 experts over 3 workers are spread unevenly; 4, 8 lanes too."""
FAMILIES = {"qwen3_moe": 4, "deepseek_v3": 6, "glm4_moe": 8, "minimax_m2": 6, "gpt_oss": 4}
"""Each with its number of lanes."""
Case = tuple[str, str]
"""(family, precision)."""
CASES: dict[Case, int] = {
    (family, precision): lanes for family, lanes in FAMILIES.items() for precision in ("float32", "bfloat16")
}


def job_of(family: str, precision: str, **changes: Any) -> Job:
    """Blocks of 4 rows; at 6 and 8 lanes they are put together in tiles of 16, in bfloat16 one by one everywhere."""
    values = {
        "model": {"family": family, "config": config_values(family, num_hidden_layers=2)},
        "batch": {"lanes": CASES[family, precision], "microbatches": 2, "microbatch_size": 1},
        "precision": precision,
        "expert_tile": "none" if precision == "bfloat16" or CASES[family, precision] == 4 else 16,
        "steps": STEPS,
    }
    return make_job(family, **values | changes)


Step = tuple[str, str, int]
"""Loss and gradient norm as hexadecimal floats; the workers' states added up (a sum has no order)."""


def train_all(world: World, plan: Plan, roles: str, jobs: list[Job]) -> list[list[Step]]:
    """Every job on this layout, one after the other in the same processes."""
    return [train(world, roles, job) for job in jobs]


def train_alone(job: Job, device: torch.device) -> list[Step]:
    """A job on one worker, in this process."""
    return train(World.alone(device), "B", job)


def train(world: World, roles: str, job: Job) -> list[Step]:
    rig = make_rig(job, plan_for(job, roles), world)
    steps = []
    for number in range(1, job.steps + 1):
        result = rig.stepper.run(number, rig.forwards(number))
        steps.append((result.loss.hex(), result.grad_norm.hex(), state_of(rig)))
    return steps


def state_of(rig: Rig) -> int:
    """All weights and moments that this worker owns, in one number."""
    tensors = {("master", n): t for n, t in rig.replica.masters.items()}
    tensors |= {(kind, name): value for kind, name, value in rig.stepper.optimizer.state()}
    digests = (
        hashlib.blake2b(
            value.cpu().contiguous().numpy().tobytes(), key=repr(key).encode()[-64:], digest_size=8
        ).digest()
        for key, value in tensors.items()
    )
    return sum(int.from_bytes(digest, "big") for digest in digests)


def on_layout(roles: str, jobs: list[Job]) -> list[list[Step]]:
    """What the workers of a layout computed: they agree on loss and norm, and their states together are the job's."""
    by_job = []
    for of_workers in zip(*run_workers(train_all, plan_for(jobs[0], roles), roles, jobs), strict=True):
        steps = []
        for of_step in zip(*of_workers, strict=True):
            assert len({(loss, norm) for loss, norm, _ in of_step}) == 1, "workers disagree"
            steps.append((of_step[0][0], of_step[0][1], sum(state for _, _, state in of_step)))
        by_job.append(steps)
    return by_job


@functools.cache
def every_case_on(roles: str) -> dict[Case, list[Step]]:
    return cases_on(roles, tuple(CASES), STEPS)


def cases_on(roles: str, cases: Sequence[Case], steps: int) -> dict[Case, list[Step]]:
    return dict(zip(cases, on_layout(roles, [job_of(*case, steps=steps) for case in cases]), strict=True))


def assert_same_bits(alone: dict[Case, list[Step]], here: dict[Case, list[Step]]) -> None:
    for case, steps in here.items():
        parted = [step for step, (a, b) in enumerate(zip(alone[case], steps, strict=True), 1) if a != b]
        assert not parted, f"{case}: first parted at step {parted[0]}"
        assert len({state for _, _, state in steps}) == len(steps), "every step changed something"


def test_some_steps_give_one_workers_bits() -> None:
    """The proof in short, for `make test`: each family once, with blocks of 4 rows, tiles of 16 and bfloat16 among
    them. tests/parallel/test_layouts.py has every family on three workers."""
    cases = list(zip(FAMILIES, itertools.cycle(("float32", "bfloat16")), strict=False))
    kinds = {(precision, job_of(family, precision).expert_tile) for family, precision in cases}
    assert kinds == {("float32", "none"), ("float32", 16), ("bfloat16", "none")}
    assert_same_bits(cases_on("B", cases, FEW_STEPS), cases_on("AEE", cases, FEW_STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("roles", LAYOUTS[1:])
def test_twenty_steps_give_one_workers_bits(roles: str) -> None:
    alone, here = every_case_on("B"), every_case_on(roles)
    assert len(here) == len(CASES) and {len(steps) for steps in here.values()} == {STEPS}
    assert_same_bits(alone, here)


@pytest.mark.parametrize(
    ("family", "precision"),
    [("deepseek_v3", "float32"), pytest.param("gpt_oss", "bfloat16", marks=pytest.mark.slow)],
)
def test_stopped_anywhere_and_resumed_elsewhere(family: str, precision: str, tmp_path: Path) -> None:
    """Twice, at steps and onto workers drawn at random (from a seed)."""
    drawn = random.Random(f"{family} {precision}")
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    job = job_of(family, precision, data=data, checkpoint={"every": 0})
    whole = run(Order(job, "B", tmp_path / "whole"))
    stops, roles = sorted(drawn.sample(range(2, STEPS), 2)), drawn.sample(["BB", "AE", "BBB", "AAE", "ABEE"], 3)
    rows: dict[int, Any] = {}
    resume = None
    for generation, (stop, letters) in enumerate(zip([*stops, None], roles, strict=True), 1):
        who = {} if stop is None else {f"east/{len(letters) - 1}": stop}
        part = run(Order(job, letters, tmp_path / "parts", resume, generation, who))
        assert not part.errors
        rows |= part.series()
        (resume,) = part.committed.values()
    assert rows == whole.series()
    assert digests(resume) == digests(whole.committed[STEPS])


# Controls


def test_the_librarys_own_sums_part() -> None:
    """`determinism: run` adds a worker's lanes as they come and leaves workers to gloo: another layout, other bits. The
    same layout gives the same."""
    job = job_of("deepseek_v3", "float32", determinism="run", steps=3)
    by_roles = {roles: on_layout(roles, [job])[0] for roles in ("B", "BBB", "AAE")}
    assert len({steps[-1][2] for steps in by_roles.values()}) == 3
    assert on_layout("BBB", [job])[0] == by_roles["BBB"]


def test_a_norm_of_partial_norms_parts() -> None:
    """An unordered clip: squares added worker by worker, as usual in float32, depend on who owns what."""
    job = job_of("deepseek_v3", "float32")
    squares = {n: t.square().sum() for n, t in make_rig(job).replica.masters.items()}
    sums = set()
    for roles in ("B", "BB", "BBB", "BBBB"):
        owner = {n: plan_for(job, roles).owners.get(n, 0) for n in squares}
        partial = [torch.zeros(()) for _ in roles]
        for name in sorted(squares):
            partial[owner[name]] += squares[name]
        sums.add(float(torch.stack(partial).sum()))
    assert len(sums) > 1
