"""Checkpoints where storage is slow, full or away: what a recovery needs is there, or awaited."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest
from dougong.checkpoint.directories import gate_of
from dougong.checkpoint.disk import read_file
from dougong.job.schema import Checkpoint
from dougong.launcher.controller.checkpoints import CheckpointManager
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.controller.inbound.items import CheckpointsPruned, Committed
from dougong.records.events import CheckpointFailed, GenerationStarted, StateRestored
from tests.launcher.controller.conftest import JOB
from tests.launcher.controller.test_checkpoints import (
    ORIGIN,
    PLAN,
    again,
    commit,
    damage,
    find,
    left,
    part,
    result,
    told,
)


def settled(manager: CheckpointManager) -> CheckpointManager:
    assert manager.background.settle(20)
    return manager


def test_what_dead_controllers_left_goes_before_anything_is_committed(tmp_path: Path) -> None:
    """On a full disk nothing is committed before there is room."""
    inbox = Inbox()
    former = CheckpointManager(tmp_path, JOB, Background("test-former", inbox), fence=1)
    find(former, inbox)
    (gate_of(tmp_path, 1) / "step-000005.g1" / "model").mkdir(parents=True)
    later = CheckpointManager(tmp_path, JOB, Background("test-later", inbox), fence=2)
    find(later, inbox)
    settled(later)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("pending/**/*")] == ["pending/2"]
    (gate_of(tmp_path, 2) / "trash-a").mkdir()
    (gate_of(tmp_path, 2) / "trash-b").write_text("what no controller has made")
    for _ in range(2):
        later.note(CheckpointFailed(generation=1, step=5, reason="no space left"))
    settled(later)
    assert [path.name for path in gate_of(tmp_path, 2).iterdir()] == ["trash-b"]
    told = result(inbox)
    assert isinstance(told, CheckpointsPruned) and [name for name, _ in told.left] == ["trash-b"]
    assert inbox.get(0) is None, "once is enough"


def test_storage_that_gives_nothing_now_is_told_from_damage(
    checkpoints: CheckpointManager, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        commit(checkpoints, inbox, step)
    damage(checkpoints.root, 5)

    def ill(path: Path, *limits: int) -> bytes:
        if path == checkpoints.root / "step-000010" / "manifest.json":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read_file(path, *limits)

    monkeypatch.setattr("dougong.checkpoint.manifest.read_file", ill)
    found = find(checkpoints, inbox)
    assert (found.directory, found.is_away, found.rejected) == (None, True, ())
    assert found.refusal is not None and "no checkpoint is valid (step-000010, step-000005" in str(found.refusal)
    monkeypatch.undo()
    assert find(checkpoints, inbox).directory == checkpoints.root / "step-000010"
    settled(checkpoints)  # it still looks for what controllers before it left
    checkpoints.root.rename(away := checkpoints.root.with_name(f"{checkpoints.root.name}-away"))
    checkpoints.root.symlink_to(checkpoints.root)
    found = find(later := again(checkpoints.root, inbox, has_committed=True), inbox)
    assert found.is_away
    settled(later)
    checkpoints.root.unlink()
    away.rename(checkpoints.root)


def test_the_checkpoint_that_a_generation_may_read_outlives_a_late_commit(
    checkpoints: CheckpointManager, inbox: Inbox
) -> None:
    """On slow storage the newest one is committed after the next generation has begun with the one before it."""
    keep_one = dataclasses.replace(checkpoints, job=JOB.model_copy(update={"checkpoint": Checkpoint(keep=1)}))
    commit(keep_one, inbox, 5)
    keep_one.note(GenerationStarted(generation=2, workers=(), step=7, resume="step-000005", in_memory=True))
    late = [part(keep_one.root, worker, 10) for worker in ("east/0", "east/1")]
    keep_one.commit(10, 1, late, PLAN, ORIGIN, None)
    item = result(inbox)
    assert isinstance(item, Committed), item
    keep_one.note(told(item))
    assert find(keep_one, inbox).directory == keep_one.root / "step-000010"  # the same thread: all before it is done
    assert left(keep_one.root) == ["step-000005", "step-000010"]
    keep_one.note(StateRestored(generation=2, step=7, tiers={}, seconds=0.1))
    pruned = result(inbox)
    assert isinstance(pruned, CheckpointsPruned) and pruned.removed == ("step-000005",)
    assert left(keep_one.root) == ["step-000010"]
