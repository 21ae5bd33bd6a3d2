"""`dense: shard` changes no bit: every family, on one to four workers, together and apart, in both precisions, with
layers that run again, with tied weights; and a worker has few of the dense tensors at a time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import CorruptionError, PeerError
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.trace.tracer import Tracer
from dougong.training.build import StepOptions
from dougong.training.drill.spoiler import flip_bit
from dougong.training.non_finite import explain
from tests.families import FAMILIES, config_values
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.test_recompute import BALANCED, Bits, bits_of_layout
from tests.training.running import Order, digests, run, token_file

LANES = 5
"""On two to four workers they are uneven."""
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
    return bits_of_layout(layout, [job_of(case, **changes) for case in cases])


def check(family: str, layouts: tuple[str, ...], ways: list[Any]) -> None:
    cases = [(family, *way) for way in ways]
    expected = bits_on("B", cases, pipeline="serial")
    for layout in layouts:
        for case, found, due in zip(cases, bits_on(layout, cases, dense="shard"), expected, strict=True):
            assert len(due[0]) == LANES * 2 and len(due[1]) > 20
            assert found == due, (layout, case)


def test_it_has_the_bits_of_copies_on_one_to_four_workers() -> None:
    check("qwen3_moe", LAYOUTS, [WAYS[0], WAYS[-1]])


def a_dozen() -> list[tuple[str, str, Any]]:
    """One case of each family: every layout and every way comes more than once."""
    found = []
    for number, family in enumerate(FAMILIES):
        found.append((family, ("BB", "AE", "BBB")[number % 3], WAYS[(5 * number + number // 8) % len(WAYS)]))
    return found


@pytest.mark.parametrize("case", a_dozen(), ids=lambda case: f"{case[0]}-{case[1]}-{case[2][0]}-{case[2][1]}")
def test_a_case_of_every_family_has_them(case: tuple[str, str, Any]) -> None:
    family, layout, way = case
    check(family, (layout,), [way])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_them_with_every_family(family: str) -> None:
    check(family, LAYOUTS, WAYS)


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs


def run_job(folder: Path, **changes: Any) -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16}
    data["validation"] = {"fraction": 0.2, "every": 3, "batches": 1}
    model = {"family": "qwen3_moe", "config": config_values("qwen3_moe", attention_dropout=0.1)}
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    given = {"model": model, "data": data, "batch": batch, "steps": 6, "checkpoint": {"every": 2}}
    return make_job(**given | {"pipeline": "zebra"} | changes)


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bfloat16", "fault": {"audit": "all"}}], ids=["plain", "audited"]
)
def test_a_run_and_its_checkpoints_are_those_of_copies_and_either_goes_on_from_the_other(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """With validation, whose last round has fewer lanes than there are workers, clipping, snapshots and the ledger."""
    copies, shards = run_job(tmp_path, **changes), run_job(tmp_path, dense="shard", **changes)
    whole = run(Order(copies, "B", tmp_path / "copies"))
    assert not whole.errors and list(whole.rows) == list(range(1, 7))
    assert "val_loss" in whole.rows[3]
    found = run(Order(shards, "BBB", tmp_path / "shards"))
    assert not found.errors and found.series() == whole.series()
    assert {s: row["ledger"] for s, row in found.rows.items()} == {s: row["ledger"] for s, row in whole.rows.items()}
    assert {s: digests(path) for s, path in found.committed.items()} == {
        s: digests(path) for s, path in whole.committed.items()
    }
    for job, roles, start in ((shards, "AAE", whole), (copies, "BB", found)):
        later = run(Order(job, roles, tmp_path / f"{roles}-later", start.committed[2], generation=2))
        assert not later.errors
        assert later.series() == {s: values for s, values in whole.series().items() if s > 2}
        assert digests(later.committed[6]) == digests(whole.committed[6])


def flipped(world: World, plan: Plan, job: Job) -> str:
    """A bit of a layer's tensor is another one when it has come to worker 2, for the backward of the second step."""
    rig = make_rig(job, plan, world)
    rig.stepper.run(1, rig.forwards(1))
    flat: Any = rig.replica.flat
    honest, shown = flat.show, list[int]()

    def show(group: int) -> None:
        honest(group)
        shown.append(group)
        if world.rank == 2 and group == 1 and shown.count(1) == 2:
            of_others = (value for name, value in flat.values(group).items() if plan.owners[name] != 2)
            flip_bit(next(of_others))

    flat.show = show
    try:
        rig.stepper.run(2, rig.forwards(2))
    except (CorruptionError, PeerError) as error:
        return str(error)
    return "nobody has seen it"


def test_a_tensor_that_comes_with_another_bit_ends_the_step_with_its_name() -> None:
    changes = {"dense": "shard", "fault": {"snapshots": {"every": 0}}}
    job = job_of(("qwen3_moe", "float32", "none", False), **changes)
    found = run_workers(flipped, plan_for(job, "BBB"), job)
    (told,) = [text for text in found if "the weight model.embed_tokens.weight is not the same on its owner" in text]
    assert told.startswith("step 2: ") and "no weight was moved" in told
    assert all("nobody" not in text for text in found)


# ---------------------------------------------------------------------------------------------------------------------
# What else looks at a step


def pair(**changes: Any) -> list[Rig]:
    """Rigs of one worker whose dense tensors stay, and come and go."""
    return [make_rig(make_job(**{"pipeline": "zebra", **changes}, dense=dense)) for dense in ("copy", "shard")]


@pytest.mark.parametrize("changes", BALANCED.values(), ids=BALANCED)
def test_routers_are_balanced_alike(changes: dict[str, Any]) -> None:
    found = []
    for rig in pair(**changes):
        losses = rig.run(2)
        masters = {name: master.sum().item() for name, master in rig.replica.masters.items()}
        found.append((losses, rig.load.counts.tolist(), rig.load.loss, masters))
    assert found[0] == found[1]


def test_a_trace_has_the_same_places_and_checksums_and_steps_go_on_behind_it() -> None:
    found = []
    for dense in ("copy", "shard"):
        tracer = Tracer(1)
        rig = make_rig(make_job(pipeline="zebra", dense=dense), options=StepOptions(tracer=tracer))
        found.append((rig.run(2), tracer.found))
    assert found[0] == found[1] and len(found[0][1]) > 100


def test_a_step_that_is_not_finite_is_looked_at_by_the_same_eyes() -> None:
    """The place is found by computing it once more."""
    told = []
    for rig in pair():
        name = "model.layers.1.mlp.gate.weight"
        rig.replica.masters[name][0, 0] = float("nan")
        with torch.no_grad():
            rig.replica.refresh()
        rig.note_state()
        result = rig.stepper.run(1, rig.forwards(1))
        assert result.not_finite is not None
        told.append(explain(rig.stepper, result, rig.forwards(1), 1))
    assert told[0] == told[1] and "the first value that is not finite" in told[0]
