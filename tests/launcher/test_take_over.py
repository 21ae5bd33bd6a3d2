"""What a command does around its controller: the record of an earlier life, signals, a run that is alive."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
from pathlib import Path

import pytest
from dougong.checkpoint.manifest import Manifest
from dougong.control.channel import Server
from dougong.control.messages import Acknowledged
from dougong.control.run_sources import RunSources
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.controller.config import FROM_START, ResumePoint
from dougong.launcher.controller.inbox import Inbox
from dougong.launcher.controller.items import SignalReceived
from dougong.launcher.run import known_sources, refuse_if_alive, signals_into, take_over
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted, DrillFired, FirstStep, GenerationStarted, RunCreated
from dougong.records.status import ControllerAddress


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def committed(step: int) -> CheckpointCommitted:
    return CheckpointCommitted(generation=1, step=step, directory=f"step-{step:06d}", num_bytes=1, seconds=0.1)


def test_a_run_without_a_record_begins_at_its_beginning(run_dir: RunDir) -> None:
    assert take_over(run_dir) == FROM_START


def test_a_resume_takes_over_generation_checkpoint_and_drills(run_dir: RunDir) -> None:
    (run_dir.checkpoints / "step-000010").mkdir()
    for event in (
        GenerationStarted(generation=1, workers=("east/0",)),
        committed(10),
        committed(20),  # its directory is gone
        DrillFired(generation=2, worker="east/1", step=7, action="kill"),
    ):
        run_dir.append_event(event)
    assert take_over(run_dir) == ResumePoint(3, 10, frozenset({(7, "east/1")}))


def test_equal_bits_are_due_since_the_last_change_with_which_something_was_computed(run_dir: RunDir) -> None:
    sittings: list[tuple[int, tuple[str, ...]]] = [(1, ()), (2, ("numerics",)), (3, ())]
    for generation, changed in sittings:
        run_dir.append_event(RunCreated(generation=generation, job="toy", changed=changed))
        run_dir.append_event(FirstStep(generation=generation, step=1))
    run_dir.append_event(RunCreated(generation=4, job="toy", changed=("numerics",)))  # and was refused
    assert take_over(run_dir).same_since == 2


def test_what_a_run_began_with_is_its_own_record_or_its_newest_checkpoints(run_dir: RunDir) -> None:
    assert known_sources(run_dir) is None
    sources = RunSources({"hidden_size": 8}, "a.B", "d")
    for step, metadata in ((5, {"sources": dataclasses.asdict(sources)}), (10, None)):
        checkpoint = run_dir.checkpoints / f"step-{step:06d}"
        checkpoint.mkdir()
        text = b"damaged" if metadata is None else Manifest(step, 1, metadata, {}).to_bytes()
        (checkpoint / "manifest.json").write_bytes(text)
    assert known_sources(run_dir) == sources
    run_dir.keep_sources(RunSources({}, "a.C", "e"))
    assert known_sources(run_dir) == RunSources({}, "a.C", "e")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_become_items_and_are_given_back(number: signal.Signals) -> None:
    before, inbox = signal.getsignal(number), Inbox()
    if number == signal.SIGHUP and before == signal.SIG_IGN:
        pytest.skip("under nohup SIGHUP stays ignored")
    with signals_into(inbox):
        os.kill(os.getpid(), number)
        assert inbox.get(20) == SignalReceived(number)
    assert signal.getsignal(number) == before


def test_a_run_that_answers_is_alive(run_dir: RunDir) -> None:
    refuse_if_alive(run_dir)
    server = Server("127.0.0.1", "secret", lambda _, channel: channel.send(Acknowledged()), print, DEADLINES)
    host, port = server.address
    machine = socket.gethostname()
    address = ControllerAddress(host=host, port=port, pid=1, token="secret", machine=machine)
    run_dir.write_controller(address)
    with pytest.raises(LaunchError, match=f"is alive .*controller process 1 on {machine}.*dougong stop"):
        refuse_if_alive(run_dir)
    server.close()
    refuse_if_alive(run_dir)
