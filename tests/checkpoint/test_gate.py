"""A controller that another has followed changes no checkpoint any more, wherever it fell asleep."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.checkpoint.directories import gate_of, list_committed, list_pending
from dougong.checkpoint.gate import open_gate
from dougong.checkpoint.part import CheckpointPart, PartWriter
from dougong.checkpoint.repository import clear, commit, prune, set_aside, verify
from dougong.checkpoint.snapshot import Saver
from dougong.deadlines import DEADLINES
from dougong.errors import CheckpointError
from tests.checkpoint.saving import names_of, state_of, tiny_model
from tests.checkpoint.saving import share as share_of


def write_part(root: Path, step: int, fence: int) -> list[CheckpointPart]:
    """The part of the one worker of a controller's generation 1, durable."""
    model = tiny_model("gpt_oss", num_hidden_layers=1)
    parts: list[CheckpointPart] = []
    names = names_of(model)
    saver = Saver(root, PartWriter("east/0", 0, 1, fence), parts.append, lambda step, reason: None, names, DEADLINES)
    saver.stage(step, share_of(state_of(model, names), 0, 1))
    saver.wait()
    return parts


def commit_one(root: Path, step: int, fence: int) -> Path:
    return commit(root, step, 1, write_part(root, step, fence), fence=fence)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_controller_has_a_gate_through_which_it_commits(tmp_path: Path) -> None:
    open_gate(tmp_path, 1)
    first = commit_one(tmp_path, 10, 1)
    open_gate(tmp_path, 2)
    second = commit_one(tmp_path, 20, 2)
    assert [place.path for place in list_committed(tmp_path)] == [second, first]
    assert verify(first).ok and verify(second).ok
    assert names_in(tmp_path / "pending") == ["2"]


def test_what_others_left_in_theirs_is_thrown_away_or_kept_aside(tmp_path: Path) -> None:
    open_gate(tmp_path, 1)
    for name in ("1/step-000030.g1/model", "1/trash-step-000010-checkpoints", "1/aside-step-000020", "step-000005.g1"):
        (tmp_path / "pending" / name).mkdir(parents=True)
    (tmp_path / "set-aside" / "1").mkdir(parents=True)
    open_gate(tmp_path, 3)
    assert names_in(tmp_path / "pending") == ["3"]
    assert names_in(tmp_path / "set-aside" / "2") == ["step-000020"]
    assert list_pending(tmp_path, 3) == []
    assert len(names_in(gate_of(tmp_path, 3))) == 3
    open_gate(tmp_path, 3)  # once more changes nothing
    assert clear(tmp_path, fence=3) == []
    assert names_in(gate_of(tmp_path, 3)) == []


def test_trash_keeps_its_name_and_none_takes_the_place_of_another(tmp_path: Path) -> None:
    open_gate(tmp_path, 1)
    (gate_of(tmp_path, 1) / "step-000030.g1" / "model").mkdir(parents=True)
    for fence in (2, 3):
        open_gate(tmp_path, fence)
    assert names_in(gate_of(tmp_path, 3)) == ["trash-1-step-000030.g1"]
    for name in ("4/trash-a", "5/trash-a"):
        (tmp_path / "pending" / name / "model").mkdir(parents=True)
    open_gate(tmp_path, 6)
    assert names_in(gate_of(tmp_path, 6)) == ["trash-1-step-000030.g1", "trash-a", "trash-a.2"]


def test_room_is_made_in_ones_own_gate_alone(tmp_path: Path) -> None:
    open_gate(tmp_path, 1)
    kept = commit_one(tmp_path, 10, 1)
    for name in ("1/step-000020.g1", "1/step-000030.g2", "1/trash-a", "2/trash-b"):
        (tmp_path / "pending" / name / "model").mkdir(parents=True)
    assert clear(tmp_path, 2, fence=1) == []
    assert names_in(gate_of(tmp_path, 1)) == ["step-000030.g2"]  # the running generation's
    assert names_in(gate_of(tmp_path, 2)) == ["trash-b"]
    assert verify(kept).ok


def test_a_worker_of_a_former_controller_begins_no_checkpoint(tmp_path: Path) -> None:
    open_gate(tmp_path, 1)
    open_gate(tmp_path, 2)
    assert write_part(tmp_path, 10, 1) == []
    assert names_in(tmp_path / "pending") == ["2"]


def asleep_before(call: str, path: Path, task: Callable[[], object]) -> int:
    """A child of ours that does this, and is stopped just before its first `call` of the system with this path: its
    number. It ends with 0 when all is done, with 9 when it was refused."""
    pid = os.fork()
    if pid:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        return pid
    original = getattr(os, call)

    def hooked(*args: object, **options: object) -> object:
        if str(path) in map(str, args):
            setattr(os, call, original)
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*args, **options)

    setattr(os, call, hooked)
    status = 1
    try:
        task()
        status = 0
    except CheckpointError:
        status = 9
    finally:
        sys.stdout.flush()
        os._exit(status)


def wake(pid: int) -> int:
    """Its exit status, once it has gone on."""
    os.kill(pid, signal.SIGCONT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three checkpoints of the first controller, whose gate is open."""
    open_gate(tmp_path, 1)
    for step in (10, 20, 30):
        commit_one(tmp_path, step, 1)
    return tmp_path


BEFORE = ["step-000010", "step-000020", "step-000030"]


def committed(root: Path) -> list[str]:
    return sorted(place.path.name for place in list_committed(root))


def test_a_commit_that_fell_asleep_just_before_its_rename_makes_no_checkpoint(root: Path) -> None:
    parts = write_part(root, 40, 1)
    sleeper = asleep_before("rename", root / "step-000040", lambda: commit(root, 40, 1, parts, fence=1))
    open_gate(root, 2)
    assert committed(root) == BEFORE  # what the second controller goes on from
    assert wake(sleeper) == 9
    assert committed(root) == BEFORE
    assert commit_one(root, 40, 2).name == "step-000040"


def test_a_deletion_that_fell_asleep_just_before_its_rename_deletes_nothing(root: Path) -> None:
    sleeper = asleep_before("rename", root / "step-000010", lambda: prune(root, 2, fence=1))
    open_gate(root, 2)
    assert wake(sleeper) == 0  # a deletion that fails is told, and no error
    assert committed(root) == BEFORE
    assert prune(root, 2, fence=2).removed == (root / "step-000010",)


def test_what_was_to_be_set_aside_by_one_who_fell_asleep_stays(root: Path) -> None:
    sleeper = asleep_before("rename", root / "step-000030", lambda: set_aside(root, [root / "step-000030"], 1))
    open_gate(root, 2)
    assert wake(sleeper) == 9
    assert committed(root) == BEFORE
    folder = set_aside(root, [root / "step-000030"], 2)
    assert names_in(folder) == ["step-000030"] and committed(root) == BEFORE[:2]
