"""The state that a worker begins with and saves: every kind that the optimizer declares, and nothing made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.errors import CheckpointError
from dougong.parallel.comm.world import World
from dougong.training.build import StepOptions, build_model, rebuild
from dougong.training.state import StartState, open_start, state_of
from tests.jobs import VOCAB, make_job, make_rig, plan_for
from tests.training.running import Order, run, token_file

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
