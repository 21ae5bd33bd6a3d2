"""`recompute: layers` changes no bit: every family, with dropout and tied weights, in both pipelines of workers apart, in
both precisions; and it keeps little."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Forward
from tests.families import FAMILIES, config_values
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers

PIPELINES, PRECISIONS = ("zebra", "af_pipe"), ("float32", "bfloat16")
Bits = tuple[dict[Any, float], dict[str, str]]
"""Losses by lane and micro-batch, and a digest of every owned tensor's gradient."""


def job_of(family: str, pipeline: str, precision: str, is_tied: bool, dropout: float, recompute: str) -> Job:
    config = config_values(family, tie_word_embeddings=is_tied, attention_dropout=dropout)
    return make_job(
        family,
        model={"family": family, "config": config},
        pipeline=pipeline,
        precision=precision,
        batch={"lanes": 2, "microbatches": 3, "microbatch_size": 1},
        recompute=recompute,
    )


def bits_of(rig: Rig) -> Bits:
    """Of a step's gradients, with random numbers of each segment's own, as a run has them."""

    def seeded(microbatch: int) -> Mapping[int, Forward]:
        found = {}
        for lane, forward in rig.forwards(1)(microbatch).items():
            place = 1 + 1000 * lane + 100 * microbatch
            found[lane] = dataclasses.replace(forward, before_segment=lambda s, p=place: torch.manual_seed(p + s))
        return found

    gradients = rig.stepper.gradients(1, seeded)
    digests = {n: hashlib.sha256(g.contiguous().numpy().tobytes()).hexdigest() for n, g in gradients.tensors.items()}
    return gradients.losses, digests


def bits_of_jobs(world: World, plan: Plan, jobs: list[Job]) -> list[Bits]:
    found = []
    for job in jobs:
        rig = make_rig(job, plan, world)
        found.append(bits_of(rig))
        rig.stepper.close()
    return found


def assert_alike(cases: list[tuple[str, str, str, bool, float]]) -> None:
    """Each case with and without recomputation, on a worker for attention and one for experts."""
    pairs = [[job_of(*case, recompute=way) for way in ("none", "layers")] for case in cases]
    jobs = list(itertools.chain.from_iterable(pairs))
    attention, experts = run_workers(bits_of_jobs, plan_for(jobs[0], "AE"), jobs)
    for number, case in enumerate(cases):
        assert len(attention[2 * number][0]) == 6 and len(attention[2 * number][1]) > 20, case
        assert attention[2 * number] == attention[2 * number + 1], case
        assert experts[2 * number] == experts[2 * number + 1], case
    losses = {case: attention[2 * number][0] for number, case in enumerate(cases)}
    for (*rest, dropout), found in losses.items():
        without = losses.get((*rest, 0.0)) if dropout else None
        assert without is None or without != found, f"{rest}: dropout changes nothing"


def a_dozen() -> list[tuple[str, str, str, bool, float]]:
    """One case of each family, so that each value of each key comes six times."""
    found = []
    for number, family in enumerate(FAMILIES):
        pipeline, precision = PIPELINES[number % 2], PRECISIONS[number // 2 % 2]
        found.append((family, pipeline, precision, number // 4 % 2 == 0, 0.1 if number // 3 % 2 else 0.0))
    return found


@pytest.mark.parametrize("case", a_dozen(), ids=lambda case: "-".join(map(str, case)))
def test_a_case_of_every_family_has_the_same_bits(case: tuple[str, str, str, bool, float]) -> None:
    assert_alike([case])


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_case_has_the_same_bits(family: str, pipeline: str) -> None:
    assert_alike(list(itertools.product([family], [pipeline], PRECISIONS, [False, True], [0.0, 0.1])))
