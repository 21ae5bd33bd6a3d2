"""`dense: shard` changes no bit: every family, on one to four workers, together and apart, in both precisions, with
layers that run again, with tied weights; and a worker has few of the dense tensors at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from dougong.job.schema import Job
from tests.families import FAMILIES, config_values
from tests.jobs import make_job, plan_for
from tests.processes import run_workers
from tests.test_recompute import Bits, bits_of_jobs

LANES = 5
"""On two to four workers they are uneven."""
IN_SHORT = ("qwen3_moe", "deepseek_v3")
LAYOUTS = ("B", "BB", "BBB", "BBBB", "AAE", "AE")
Case = tuple[str, str, str, bool]
"""(family, precision, recompute, tied)."""
WAYS = list(itertools.product(("float32", "bfloat16"), ("none", "layers"), (False, True)))


def job_of(case: Case, **changes: Any) -> Job:
    family, precision, recompute, is_tied = case
    config = config_values(family, tie_word_embeddings=is_tied, attention_dropout=0.1)
    return make_job(
        family,
        model={"family": family, "config": config},
        precision=precision,
        recompute=recompute,
        batch={"lanes": LANES, "microbatches": 2, "microbatch_size": 1},
        **changes,
    )


def bits_on(layout: str, cases: list[Case], **changes: Any) -> list[Bits]:
    """Of each case of one family, what all workers of a layout found together."""
    jobs = [job_of(case, **changes) for case in cases]
    found = []
    for of_workers in zip(*run_workers(bits_of_jobs, plan_for(jobs[0], layout), jobs), strict=True):
        losses = {key: loss for its, _ in of_workers for key, loss in its.items()}
        digests = {name: digest for _, its in of_workers for name, digest in its.items()}
        assert len(digests) == sum(len(its) for _, its in of_workers), "a tensor has two owners"
        found.append((losses, digests))
    return found


def check(family: str, layouts: tuple[str, ...], ways: list[Any]) -> None:
    cases = [(family, *way) for way in ways]
    expected = bits_on("B", cases, pipeline="serial")
    for layout in layouts:
        for case, found, due in zip(cases, bits_on(layout, cases, dense="shard"), expected, strict=True):
            assert len(due[0]) == LANES * 2 and len(due[1]) > 20
            assert found == due, (layout, case)


@pytest.mark.parametrize("family", IN_SHORT)
def test_it_has_the_bits_of_copies_on_one_to_four_workers(family: str) -> None:
    check(family, LAYOUTS, WAYS if family == IN_SHORT[0] else WAYS[-1:])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_them_with_every_family(family: str) -> None:
    check(family, LAYOUTS, WAYS)
