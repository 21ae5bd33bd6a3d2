"""Parts become checkpoints when the last one has come; what is damaged is passed over; the identity of a job."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.checkpoint.directories import pending_directory
from dougong.checkpoint.disk import digest
from dougong.checkpoint.manifest import FileRecord, Manifest
from dougong.checkpoint.part import CheckpointPart
from dougong.checkpoint.manifest import Manifest
from dougong.control.worker_messages import PartDurable
from dougong.errors import CheckpointError
from dougong.job.schema import Job
from dougong.launcher.controller.checkpoints import CheckpointManager, Committed, FoundCheckpoint
from dougong.launcher.controller.inbox import Background, Inbox, TaskEnded
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.planner.recipe import make_recipe
from dougong.planner.resume import identity
from tests.launcher.toyrun import toy_job

INVENTORY = Inventory("toy", (), (), 4, ())
PLAN = make_plan(4, INVENTORY, [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)])
JOB = Job.model_validate(toy_job())


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def keeper(tmp_path: Path, inbox: Inbox) -> CheckpointManager:
    return CheckpointManager(tmp_path, JOB, Background("test-commit", inbox), data={"name": "a.txt", "digest": "one"})


def part(keeper: CheckpointManager, worker: str, step: int, generation: int = 1) -> PartDurable:
    directory = pending_directory(keeper.root, step, generation)
    name = f"model/{worker.replace('/', '-')}.json"
    data = f"{worker} {step}".encode()
    (directory / "model").mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)
    files = {name: FileRecord(len(data), digest(data))}
    rank = int(worker.rpartition("/")[2])
    durable = CheckpointPart(worker, rank, generation, step, directory.name, files, ())
    return PartDurable(step, directory.name, durable.to_json())


def result(inbox: Inbox) -> TaskEnded:
    item = inbox.get(20)
    assert isinstance(item, TaskEnded)
    return item


def commit(keeper: CheckpointManager, inbox: Inbox, step: int, generation: int = 1) -> Committed:
    for worker in ("east/0", "east/1"):
        keeper.add(worker, generation, part(keeper, worker, step, generation), PLAN, INVENTORY)
    called = result(inbox)
    assert called.error is None
    keeper.commit_ended(called.value)
    assert isinstance(called.value, Committed)
    return called.value


def test_a_checkpoint_is_committed_with_the_last_part(keeper: CheckpointManager, inbox: Inbox) -> None:
    assert keeper.add("east/0", 1, part(keeper, "east/0", 5), PLAN, INVENTORY)
    assert keeper.waiting_for == (5,)
    assert not keeper.busy
    assert not keeper.add("east/1", 1, part(keeper, "east/1", 5), PLAN, INVENTORY)
    assert keeper.busy
    done = result(inbox)
    assert done.task == "commit"
    assert done.value.directory == keeper.root / "step-000005"
    keeper.commit_ended(done.value)
    assert not keeper.busy
    header = Manifest.load(done.value.directory).metadata
    assert header["data"] == {"name": "a.txt", "digest": "one", "step": 5, "samples": 20, "tokens": 20 * 256}
    assert header["parent"] is None
    assert header["job"] == identity(JOB)
    assert commit(keeper, inbox, 10).directory.name == "step-000010"
    assert Manifest.load(keeper.root / "step-000010").metadata["parent"] == "step-000005"


def test_old_checkpoints_go(keeper: CheckpointManager, inbox: Inbox) -> None:
    removed = [commit(keeper, inbox, step).removed for step in (5, 10, 15)]
    assert removed == [(), (), ("step-000005",)]


def test_parts_of_two_generations_are_never_mixed(keeper: CheckpointManager, inbox: Inbox) -> None:
    keeper.add("east/0", 1, part(keeper, "east/0", 5, 1), PLAN, INVENTORY)
    keeper.forget()
    keeper.add("east/1", 2, part(keeper, "east/1", 5, 2), PLAN, INVENTORY)
    assert not keeper.busy
    keeper.add("east/0", 2, part(keeper, "east/0", 5, 2), PLAN, INVENTORY)
    assert Manifest.load(result(inbox).value.directory).generation == 2


def test_a_commit_that_fails_is_told_and_the_next_may_succeed(keeper: CheckpointManager, inbox: Inbox) -> None:
    keeper.add("east/0", 1, part(keeper, "east/0", 5), PLAN, INVENTORY)
    other = part(keeper, "east/1", 5)
    os.unlink(pending_directory(keeper.root, 5, 1) / "model" / "east-1.json")
    keeper.add("east/1", 1, other, PLAN, INVENTORY)
    called = result(inbox)
    assert isinstance(called.error, CheckpointError)
    keeper.commit_ended(None)
    assert not keeper.busy
    assert commit(keeper, inbox, 10).step == 10


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name", "rejected"),
    [
        (lambda root: None, "step-000010", 0),
        (lambda root: flip(root / "step-000010" / "model" / "east-0.json"), "step-000005", 1),
        (lambda root: (root / "step-000010" / "manifest.json").unlink(), "step-000005", 1),
    ],
)
def test_the_newest_valid_one_is_found(
    keeper: CheckpointManager, inbox: Inbox, damage: Callable[[Path], None], name: str, rejected: int
) -> None:
    commit(keeper, inbox, 5)
    commit(keeper, inbox, 10)
    damage(keeper.root)
    keeper.find()
    found = result(inbox).value
    assert isinstance(found, FoundCheckpoint)
    assert found.directory == keeper.root / name
    assert [directory for directory, _ in found.rejected] == ["step-000010"] * rejected


def test_a_checkpoint_of_another_recipe_is_refused(keeper: CheckpointManager, inbox: Inbox) -> None:
    keeper.recipe = make_recipe(JOB, INVENTORY)
    directory = commit(keeper, inbox, 5).directory
    written = Manifest.load(directory).metadata["recipe"]
    assert written == {"digest": keeper.recipe.digest, **keeper.recipe.to_dict()}
    keeper.find()
    assert result(inbox).value.directory == directory
    keeper.recipe = dataclasses.replace(keeper.recipe, arithmetic=99)
    keeper.find()
    error = result(inbox).error
    assert isinstance(error, CheckpointError)
    assert "another recipe (arithmetic: 1 then, 99 now)" in str(error) and "-o numerics=bounded" in str(error)
    keeper.job = JOB.model_copy(update={"numerics": "bounded"})
    keeper.find()
    (warning,) = result(inbox).value.warnings
    assert "arithmetic: 1 then, 99 now" in warning


def test_where_a_job_runs_is_no_part_of_its_identity() -> None:
    elsewhere = toy_job(
        steps=99, islands=[{"name": "w", "accelerator": "cpu", "workers": 1}], fault={"max_restarts": 9}
    )
    assert identity(Job.model_validate(elsewhere)) == identity(JOB)
    assert identity(Job.model_validate(toy_job(seed=5))) != identity(JOB)


def test_a_checkpoint_of_other_data_is_refused(keeper: CheckpointManager, inbox: Inbox) -> None:
    commit(keeper, inbox, 5)
    keeper.data = {"name": "a.txt", "digest": "two"}
    with pytest.raises(CheckpointError, match=r"digest one, but a\.txt has two"):
        keeper._find()
    keeper.data = {"name": "a.txt", "digest": "one"}
    assert keeper._find().directory == keeper.root / "step-000005"


def test_the_end_waits_for_what_runs_in_the_background(inbox: Inbox) -> None:
    """A run that fails at once must not end its interpreter in the middle of an import."""
    background, begun, ended = Background("test-settle", inbox), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        threading.Event().wait(0.3)
        ended.set()

    background.call("work", work)
    assert begun.wait(10) and not ended.is_set()
    background.settle(10)
    assert ended.is_set()
    background.call("work", lambda: threading.Event().wait(60))
    background.settle(0.01)  # a limit is kept
