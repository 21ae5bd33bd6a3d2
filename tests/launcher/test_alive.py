"""Who may have a run while its controller lives, or may: its lease decides, and an answer comes before it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.errors import AliveError
from dougong.launcher.alive import become_controller
from dougong.records.directory import RunDir
from dougong.records.events import NoteTaken
from dougong.records.status import ControllerAddress
from tests.leases import held, left

QUICK = dataclasses.replace(DEADLINES, client_answer_s=0.2, status_fresh_s=1.5, poll_every_s=0.02, lease_s=1.6)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def address(host: str, port: int, machine: str) -> ControllerAddress:
    return ControllerAddress(host=host, port=port, pid=77, token="t", machine=machine)


def test_one_that_renews_its_lease_and_does_not_answer_is_named_with_what_ends_it(run_dir: RunDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, held(run_dir) as written:
        host, port = silent.getsockname()
        written.write_controller(address(host, port, socket.gethostname()))
        with pytest.raises(AliveError, match=r"is alive: .*77.*`kill -9 77` ends it, then: this command") as caught:
            become_controller(run_dir, deadlines=QUICK)
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("takes_over", [False, True])
def test_one_that_cannot_be_reached_is_followed_when_its_lease_runs_out(run_dir: RunDir, takes_over: bool) -> None:
    left(run_dir, machine="node9").write_controller(address("127.0.0.1", 1, "node9"))
    told: list[str] = []
    with become_controller(run_dir, takes_over, QUICK, told.append) as lease:
        assert lease.fence == 2
    assert bool(told) is not takes_over


def test_one_that_is_gone_is_followed_at_once(run_dir: RunDir) -> None:
    left(run_dir).write_controller(address("127.0.0.1", 1, socket.gethostname()))
    with become_controller(run_dir, deadlines=DEADLINES) as lease:
        assert lease.fence == 2
        assert run_dir.read_controller() is None  # that of the first is no more asked
    assert os.listdir(run_dir.path / "lease").count("1.address") == 1  # it is not ours to remove


def test_a_number_that_the_record_has_is_not_taken_again_where_leases_are_lost(run_dir: RunDir) -> None:
    """Else all that the next controller writes would be passed over."""
    with become_controller(run_dir, deadlines=QUICK) as lease:
        run_dir.of_writer(lease.fence).append_event(NoteTaken(generation=1, text="written by it"))
    shutil.rmtree(run_dir.path / "lease")
    with become_controller(run_dir, deadlines=QUICK) as next_one:
        assert next_one.fence == lease.fence + 1
