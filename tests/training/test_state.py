"""The state that a worker begins with and saves: every kind that the optimizer declares, and nothing made up; read from
a checkpoint or from workers' memory, it goes on with the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import CheckpointError
from dougong.job.fault.snapshots import Snapshots
from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.memory.state_memory import StateMemory
from dougong.training.replica import ModelBlueprint
from dougong.training.state import StartState, open_start, state_of, wanted_state
from tests.jobs import VOCAB, Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.stores import store_at
from tests.test_promise import state_of as state_in_one_number
from tests.training.running import Order, run, token_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

CPU = torch.device("cpu")


def test_a_new_run_begins_with_nothing() -> None:
    job = make_job()
    with open_start(job, build_model(job, VOCAB, CPU).names, None) as start:
        assert start == StartState(step=0, digest=None, read=None, source=None)
    rig = make_rig(job)
    assert not list(rig.stepper.optimizer.state())


def test_what_was_never_updated_is_saved_as_zeros_of_its_shape() -> None:
    rig = make_rig(make_job("deepseek_v32"))
    optimizer = rig.stepper.optimizer
    rig.run(1)
    saved = {(item.group, item.name): item.tensor for item in state_of(rig.replica, optimizer)}
    kinds = optimizer.declaration.kinds_like_parameters
    assert {name for group, name in saved if group == "model"} == set(rig.replica.masters)
    for kind in kinds:
        assert {name for group, name in saved if group == kind} == set(optimizer.names)
    idle = set(optimizer.names) - {name for _, name, _ in optimizer.state()}
    assert idle, "the indexer's tensors get no gradient"
    for name in idle:
        assert ("step", name) not in saved
        for kind in kinds:
            assert saved[kind, name].shape == rig.replica.masters[name].shape and not saved[kind, name].any()


def test_a_checkpoint_gives_back_what_was_saved_and_leaves_the_rest_without_state(tmp_path: Path) -> None:
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    job = make_job("deepseek_v32", data=data, steps=1)
    outcome = run(Order(job, "B", tmp_path / "run"))
    blueprint = build_model(job, VOCAB, CPU)
    with open_start(job, blueprint.names, outcome.committed[1]) as start:
        assert (start.step, start.digest) == (1, outcome.rows[1]["ledger"])
        stepper = rebuild(blueprint, plan_for(job), World.alone(), start, StepOptions())
    optimizer = stepper.optimizer
    kinds = {kind.name for kind in optimizer.declaration.state_kinds}
    found = {(kind, name): value for kind, name, value in optimizer.state()}
    updated = {name for _, name in found}
    assert 0 < len(updated) < len(optimizer.names)
    assert found.keys() == {(kind, name) for kind in kinds for name in updated}
    assert {float(found["step", name]) for name in updated} == {1.0}


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    job = make_job()
    with (
        pytest.raises(CheckpointError),
        open_start(job, build_model(job, VOCAB, CPU).names, tmp_path),
    ):
        pass


Restored = tuple[list[str], int, list[str]]
"""Losses, the state that one worker owns at the end, and where the state came from in between."""


def steps_of(
    blueprint: ModelBlueprint, plan: Plan, world: World, start: StartState, memory: StateMemory | None, steps: range
) -> tuple[list[str], int]:
    """Losses of steps, and this worker's state after them."""
    stepper = rebuild(blueprint, plan, world, start, StepOptions(memory=memory))
    share = stepper.parts.share
    if memory is not None:
        memory.follow(world, plan, lambda: state_of(share.replica, share.optimizer), start.step)
    rig = Rig(blueprint.job, plan, share.replica, stepper, world.rank)
    losses = [stepper.run(step, rig.forwards(step)).loss.hex() for step in steps]
    if memory is not None:
        memory.before_update()
    stepper.close()
    return losses, state_in_one_number(rig)


def undisturbed(world: World, plan: Plan, job: Job) -> tuple[list[str], int]:
    return steps_of(build_model(job, VOCAB, CPU), plan, world, StartState(), None, range(1, 5))


def recovered(world: World, plan: Plan, job: Job, later: Plan, lost: tuple[int, ...], port: int) -> Restored:
    """Two steps on a plan; some workers forget what they have, or are there no more; two steps on another plan."""
    blueprint, memory = build_model(job, VOCAB, CPU), StateMemory(Snapshots())
    losses, _ = steps_of(blueprint, plan, world, StartState(), memory, range(1, 3))
    world.leave()
    memory.leave()
    size = len(later.workers)
    if world.rank >= size:
        return losses, 0, []
    attention = tuple(w.rank for w in later.workers if w.lanes)
    everybody = tuple(range(size))
    islands = (("east", "gloo", everybody),)
    member = dataclasses.replace(
        world.member,
        generation=2,
        size=size,
        attention=attention,
        islands=islands,
        names=world.member.names[:size],
    )
    if world.rank in lost:
        memory = StateMemory(Snapshots())
    world = World.join(member, store_at(port, member.generation))
    source = memory.open_state(world, lambda: wanted_state(blueprint, later), 0)
    assert source is not None and source.step == 2 and memory.step == (0 if world.rank in lost else 2)
    more, state = steps_of(blueprint, later, world, StartState.of(source), memory, range(3, 5))
    world.leave()
    return losses + more, state, sorted(source.tiers)


BIASED = {"bias_rate": 0.01}
RECOVERIES: dict[str, tuple[str, str, str, tuple[int, ...], dict[str, Any]]] = {
    # family, workers before and after, those who lose what they hold, changes
    "the same plan": ("qwen3_moe", "BBB", "BBB", (1,), {}),
    "apart, a moved bias": ("deepseek_v3", "AEE", "AEE", (2,), {"router": BIASED}),
    "attention lost, half precision": ("gpt_oss", "AAE", "AAE", (0,), {"precision": "bfloat16"}),
    "other roles, idle experts": ("longcat_flash", "AEE", "EBA", (0,), {"precision": "bfloat16"}),
    "fewer workers, some never updated": ("deepseek_v32", "BBB", "BB", (), {}),
    "in pieces, fewer workers": ("deepseek_v32", "BBB", "BB", (), {"dense": "shard", "pipeline": "zebra"}),
}
QUICK = ("apart, a moved bias", "in pieces, fewer workers")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in RECOVERIES]
)
def test_a_run_that_goes_on_from_memory_has_the_bits_of_one_that_was_never_disturbed(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, before, after, lost, changes = RECOVERIES[case]
    if "pieces" in case:
        monkeypatch.setattr(pieces, "PIECE_NUMEL", 512)
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    job = make_job(family, steps=4, batch=batch, **changes)
    expected = run_workers(undisturbed, plan_for(job, "B"), job)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    found = run_workers(recovered, plan_for(job, before), job, plan_for(job, after), lost, store.port)
    kept = found[: len(after)]
    assert all(losses == expected[0][0] for losses, _, _ in kept)
    assert sum(state for _, state, _ in kept) == expected[0][1]
    for rank, (_, _, tiers) in enumerate(kept):
        assert tiers == ["peer"] if rank in lost else "own" in tiers or before != after
