"""`recompute: layers` changes no bit: every family, with dropout and tied weights, in both pipelines of workers apart,
in both precisions; and it keeps little."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Forward
from dougong.parallel.trace.tracer import Tracer
from dougong.training.audit import make_audit
from dougong.training.build import StepOptions
from tests.families import FAMILIES, config_values
from tests.jobs import Rig, RigForwards, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.step_peaks import peaks_of_steps

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


def bits_of_layout(layout: str, jobs: list[Job]) -> list[Bits]:
    """Of each job of one family, what all workers of a layout found together."""
    found = []
    for of_workers in zip(*run_workers(bits_of_jobs, plan_for(jobs[0], layout), jobs), strict=True):
        losses = {key: loss for its, _ in of_workers for key, loss in its.items()}
        digests = {name: digest for _, its in of_workers for name, digest in its.items()}
        assert len(digests) == sum(len(its) for _, its in of_workers), "a tensor has two owners"
        found.append((losses, digests))
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


# ---------------------------------------------------------------------------------------------------------------------
# What it keeps


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_at_24_layers_the_peak_of_activations_is_less_than_two_fifths(pipeline: str) -> None:
    config = config_values("qwen3_moe", num_hidden_layers=24)
    jobs = [
        make_job(
            model={"family": "qwen3_moe", "config": config},
            data={"text": "stdlib", "sequence_length": 128},
            batch={"lanes": 1, "microbatches": 2, "microbatch_size": 4},
            pipeline=pipeline,
            recompute=recompute,
        )
        for recompute in ("none", "layers")
    ]
    (none, layers), _ = run_workers(peaks_of_steps, plan_for(jobs[0], "AE"), jobs)
    assert none > 80e6 and layers <= 0.4 * none, f"{layers} of {none} bytes"


# ---------------------------------------------------------------------------------------------------------------------
# What happens once


def pair_of_rigs(**changes: Any) -> list[Rig]:
    return [make_rig(make_job(**changes, recompute=recompute)) for recompute in ("none", "layers")]


BALANCED: dict[str, dict[str, Any]] = {
    "global loss": {"router": {"global_loss": 0.01}},
    "sequence loss": {"router": {"sequence_loss": 0.01}},
    "bias": {"family": "deepseek_v3", "router": {"bias_rate": 0.01}},
    "the family's own loss": {
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe", output_router_logits=True)}
    },
}


@pytest.mark.parametrize("changes", BALANCED.values(), ids=BALANCED)
def test_routers_losses_and_counts_are_taken_once(changes: dict[str, Any]) -> None:
    """A repetition runs the hooks of a router again, and transformers' collector of logits."""
    found = []
    for rig in pair_of_rigs(**changes):
        losses = rig.run(2)
        found.append((losses, rig.load.counts.tolist(), rig.load.loss, *digests_of(rig)))
    assert found[0] == found[1]
    assert sum(found[0][1][0]) == 2 * 2 * 2 * 16 * 2


def digests_of(rig: Rig) -> list[str]:
    return [hashlib.sha256(m.numpy().tobytes()).hexdigest() for _, m in sorted(rig.replica.masters.items())]


def test_a_trace_has_each_place_once_with_the_same_checksum() -> None:
    found = []
    for recompute in ("none", "layers"):
        tracer = Tracer(1)
        rig = make_rig(make_job(recompute=recompute), options=StepOptions(tracer=tracer))
        rig.run(1)
        found.append(tracer.found)
    assert found[0] == found[1] and len(found[0]) > 100


def test_an_audited_step_computes_the_same_a_second_time() -> None:
    for rig in pair_of_rigs(fault={"audit": "all"}):
        audit = make_audit(rig.stepper, RigForwards(rig))  # type: ignore[arg-type]
        assert audit is not None
        rig.stepper.run(1, rig.forwards(1), audit=audit)


def test_a_step_that_is_not_finite_is_told_for_what_it_is() -> None:
    """Not as a layer that has come out otherwise: NaN is not equal to itself."""
    for rig in pair_of_rigs(fault={"non_finite": "skip"}):
        with torch.no_grad():
            next(iter(rig.replica.dense.values()))[:, 0] = float("nan")
        rig.note_state()
        assert rig.stepper.run(1, rig.forwards(1)).not_finite is not None


def test_a_layer_of_chance_that_nobody_keyed_ends_the_step_with_its_name() -> None:
    _, rig = pair_of_rigs()
    layer = rig.replica.model.get_submodule("model.layers.1")
    scale = itertools.count(1)
    layer.input_layernorm.register_forward_hook(lambda *seen: seen[-1] * next(scale))  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"model\.layers\.1 is another one when it runs again.*set recompute: none"):
        rig.run(1)
