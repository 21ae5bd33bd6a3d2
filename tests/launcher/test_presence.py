"""What can be known of a controller from outside: alive, starting, silent, dead, out of reach."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dougong.control.messages import Acknowledged
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.client import stop
from dougong.launcher.presence import Presence, look
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted
from dougong.records.status import ControllerAddress, RunStatus
from tests.leases import held, left

QUICK = dataclasses.replace(DEADLINES, client_answer_s=0.2, status_fresh_s=0.2, poll_every_s=0.02)
HERE = socket.gethostname()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path / "run")
    made.write_status(RunStatus(job="toy", state="RUNNING", step=17, steps=20))
    return made


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def write(run_dir: RunDir, address: tuple[str, int], machine: str = HERE, pid: int = 0) -> None:
    host, port = address
    known = ControllerAddress(host=host, port=port, pid=pid or os.getpid(), token="secret", machine=machine)
    run_dir.write_controller(known)


def silent(closing: ExitStack) -> tuple[str, int]:
    """The address of a process that is stopped: the system takes connections, and nobody speaks."""
    return closing.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()


def nobody() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


def test_one_that_answers_is_alive(run_dir: RunDir, closing: ExitStack) -> None:
    server = Server("127.0.0.1", "secret", lambda _, channel: channel.send(Acknowledged()), print, DEADLINES)
    closing.callback(server.close)
    write(closing.enter_context(held(run_dir)), server.address)
    assert look(run_dir) is Presence.ALIVE


def test_before_it_has_an_address_its_lease_is_known(run_dir: RunDir) -> None:
    assert look(run_dir, QUICK) is Presence.ABSENT
    with held(run_dir):
        assert look(run_dir, QUICK) is Presence.STARTING
    assert look(run_dir, QUICK) is Presence.ABSENT
    left(run_dir)
    assert look(run_dir, QUICK) is Presence.ABSENT
    left(run_dir, machine="another-machine")
    assert look(run_dir, QUICK) is Presence.ABSENT  # it does not renew it


def test_on_this_machine_the_lease_says_whether_its_process_is_there(run_dir: RunDir, closing: ExitStack) -> None:
    with held(run_dir) as written:
        write(written, silent(closing))
        assert look(run_dir, QUICK) is Presence.SILENT
        write(written, nobody())
        assert look(run_dir, QUICK) is Presence.SILENT
    assert look(run_dir, QUICK) is Presence.GONE
    write(left(run_dir), silent(closing))
    assert look(run_dir, QUICK) is Presence.GONE  # whoever has its port now


def test_on_another_machine_only_a_refusal_is_a_proof(run_dir: RunDir, closing: ExitStack) -> None:
    written = left(run_dir, machine="another-machine")
    write(written, nobody(), "another-machine")
    assert look(run_dir, QUICK) is Presence.UNKNOWN  # on its own loopback
    for host, found in (("localhost", Presence.GONE), ("nowhere.invalid", Presence.UNKNOWN)):
        write(written, (host, nobody()[1]), "another-machine")
        assert look(run_dir, QUICK) is found
    _, port = silent(closing)
    write(written, ("localhost", port), "another-machine")
    assert look(run_dir, QUICK) is Presence.SILENT


def refusal(run_dir: RunDir, now: bool = False) -> str:
    with pytest.raises(LaunchError) as caught:
        stop(run_dir, now, 0.3, QUICK)
    return str(caught.value)


@pytest.mark.parametrize("now", [False, True])
def test_a_lost_run_cannot_be_stopped_and_says_where_it_is_and_what_next(run_dir: RunDir, now: bool) -> None:
    run_dir.write_job("job: toy\n")
    (run_dir.checkpoints / "step-000015").mkdir()
    run_dir.append_event(CheckpointCommitted(generation=1, step=15, directory="step-000015", num_bytes=1, seconds=0.1))
    written = left(run_dir)
    write(written, nobody(), pid=77)
    first = refusal(run_dir, now)
    assert f"lost at step 17 of 20: its controller (process 77 on {HERE}) is gone" in first
    assert first.endswith(f"next: dougong resume {run_dir.path}")
    assert refusal(run_dir, now) == first  # however often it is asked
    written.remove_controller()
    assert "lost at step 17 of 20: its controller is gone" in refusal(run_dir, now)


def test_a_run_that_ended_as_its_controller_was_killed_has_ended(run_dir: RunDir) -> None:
    written = left(run_dir)
    write(written, nobody())
    written.write_status(RunStatus(job="toy", state="FINISHED", step=20, steps=20))
    assert stop(run_dir, False, 0.3, QUICK).state == "FINISHED"


def test_who_does_not_answer_is_named_with_what_ends_it(run_dir: RunDir, closing: ExitStack) -> None:
    with held(run_dir) as written:
        write(written, silent(closing), pid=77)
        text = refusal(run_dir)
    assert "is there and does not answer" in text
    assert f"`kill -CONT 77` on {HERE} wakes it, `kill -9 77` ends it" in text


def test_who_cannot_be_reached_is_named_with_where_to_go(run_dir: RunDir) -> None:
    write(left(run_dir, machine="another-machine"), ("nowhere.invalid", 1), "another-machine", pid=77)
    text = refusal(run_dir)
    assert "(process 77 on another-machine) cannot be reached from here; type this command there" in text
    assert f"dougong resume {run_dir.path} --take-over" in text


def test_a_run_that_is_starting_is_waited_for(run_dir: RunDir) -> None:
    with held(run_dir):
        assert "is starting and cannot be asked yet (process" in refusal(run_dir)
