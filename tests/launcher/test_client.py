"""A run seen from another terminal, against a controller that this test plays."""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dougong.control.channel import Channel
from dougong.control.handshake import Hello
from dougong.control.messages import Acknowledged, Message, Ping, RequestRefused, StopRun
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.client import LOST, LogReader, ask_controller, follow, look_at, read_status, stop
from dougong.launcher.presence import Presence
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated, RunEnded
from dougong.records.lease import LEASES, Holder
from dougong.records.status import ControllerAddress, RunStatus, WorkerState
from tests.leases import left

QUICK = dataclasses.replace(DEADLINES, client_answer_s=0.3, status_fresh_s=0.4, poll_every_s=0.02)
RUNNING = RunStatus(job="toy", state="RUNNING", step=3, workers=(WorkerState(name="east/0", alive=True),))
STOPPED = RunStatus(job="toy", state="STOPPED", step=4)

Answer = Callable[[Message], Message | None]


class Controller:
    """Answers clients as it is told; None: not at all."""

    def __init__(self, run_dir: RunDir, answer: Answer) -> None:
        self.requests: list[Message] = []
        self._channels: list[Channel] = []  # whose connections stay open, answered or not
        self._answer = answer
        self.server = Server("127.0.0.1", "secret", self._on_peer, lambda text: None, DEADLINES)
        self.write(left(run_dir, machine="the machine of its lease"), socket.gethostname())

    def write(self, run_dir: RunDir, machine: str) -> None:
        host, port = self.server.address
        address = ControllerAddress(host=host, port=port, pid=os.getpid(), token="secret", machine=machine)
        run_dir.write_controller(address)

    def _on_peer(self, hello: Hello, channel: Channel) -> None:
        self._channels.append(channel)
        request = channel.receive(5)
        self.requests.append(request)
        answer = self._answer(request)
        if answer is not None:
            channel.send(answer)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def controlled(run_dir: RunDir) -> Iterator[Controller]:
    made = Controller(run_dir, lambda request: Acknowledged())
    run_dir.write_status(RUNNING)
    yield made
    made.server.close()


def test_a_controller_that_answers_is_alive(run_dir: RunDir, controlled: Controller) -> None:
    assert look_at(run_dir) == (RUNNING, Presence.ALIVE)
    assert controlled.requests == [Ping(), Ping()]  # whether it lives, and what it cannot write


def test_a_run_whose_controller_is_gone_is_lost_with_its_workers(run_dir: RunDir, controlled: Controller) -> None:
    controlled.server.close()
    status = read_status(run_dir)
    assert (status.state, status.step) == (LOST, 3)
    assert [worker.alive for worker in status.workers] == [False]


def test_an_end_that_status_has_no_room_for_is_that_of_the_events(run_dir: RunDir, controlled: Controller) -> None:
    """On a full disk a line may still fit into a file that is there, and a new file does not."""
    controlled.server.close()
    run_dir.append_event(RunEnded(kind="failed", generation=1, step=3, cause="no space left"))
    status = read_status(run_dir)
    assert (status.state, [worker.alive for worker in status.workers]) == ("FAILED", [False])
    assert stop(run_dir, now=False, timeout_s=1).state == "FAILED"
    run_dir.append_event(RunCreated(generation=2, job="toy"))  # and a later controller was lost
    assert read_status(run_dir).state == LOST


def test_a_finished_run_whose_resume_came_to_nothing_is_finished(run_dir: RunDir, controlled: Controller) -> None:
    controlled.server.close()
    run_dir.append_event(RunEnded(kind="finished", generation=1, step=10))
    run_dir.append_event(RunCreated(generation=2, job="toy"))
    run_dir.write_status(RunStatus(job="toy", state="FAILED", generation=2, step=8, steps=20))
    status = read_status(run_dir)
    assert (status.state, status.generation, status.step, status.steps) == ("FINISHED", 1, 10, 10)
    run_dir.write_status(RunStatus(job="toy", step=8, steps=20))  # its controller was killed
    assert read_status(run_dir) == status


def test_a_run_that_has_ended_needs_no_controller(run_dir: RunDir) -> None:
    run_dir.write_status(STOPPED)
    assert look_at(run_dir) == (STOPPED, None)
    assert stop(run_dir, now=False, timeout_s=1) == STOPPED


def test_a_run_that_has_written_nothing_yet_is_lost_without_a_controller(run_dir: RunDir) -> None:
    assert read_status(run_dir).state == LOST


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (RequestRefused("not while it starts"), "the controller refused: not while it starts"),
        (Ping(), "the controller answered stop_run with ping"),
        (None, r"did not answer: controller at 127\.0\.0\.1:\d+ has sent no message within 0\.3 s; try again"),
    ],
)
def test_what_a_controller_does_not_acknowledge_is_an_error(run_dir: RunDir, answer: Message | None, text: str) -> None:
    controller = Controller(run_dir, lambda request: answer)
    with pytest.raises(LaunchError, match=text):
        ask_controller(run_dir, StopRun(now=True), QUICK)
    assert controller.requests == [StopRun(now=True)]
    controller.server.close()


def test_without_a_controller_the_next_command_is_named(run_dir: RunDir) -> None:
    with pytest.raises(LaunchError, match="no controller runs here; `dougong status"):
        ask_controller(run_dir, Ping())


def test_a_controller_on_anothers_loopback_is_judged_by_its_lease(run_dir: RunDir, controlled: Controller) -> None:
    controlled.write(left(run_dir, machine="another-machine"), "another-machine")
    with pytest.raises(LaunchError, match="listens on another-machine alone; type this command there"):
        ask_controller(run_dir, Ping())
    assert read_status(run_dir, QUICK).state == LOST
    ended, lease = threading.Event(), run_dir.path / LEASES / "2"

    def keep_renewing() -> None:
        holder = Holder.model_validate_json(lease.read_bytes())
        for beat in itertools.count():
            lease.write_bytes(holder.model_copy(update={"beat": beat}).to_bytes())
            if ended.wait(0.01):
                return

    renewing = threading.Thread(target=keep_renewing)
    renewing.start()
    assert look_at(run_dir)[1] is Presence.ALIVE
    ended.set()
    renewing.join()
    assert controlled.requests == []


def test_stop_waits_for_the_end(run_dir: RunDir) -> None:
    def end(request: Message) -> Message:
        run_dir.write_status(STOPPED)
        return Acknowledged()

    controller = Controller(run_dir, end)
    run_dir.write_status(RUNNING)
    assert stop(run_dir, now=True, timeout_s=10) == STOPPED
    assert controller.requests == [Ping(), StopRun(now=True)]
    controller.server.close()


def test_a_stop_that_takes_long_says_what_else_there_is(run_dir: RunDir, controlled: Controller) -> None:
    told: list[str] = []
    with pytest.raises(LaunchError, match="has not stopped within 0 s; it still waits for step 4 to end: wait"):
        stop(run_dir, now=False, timeout_s=0.1, deadlines=QUICK, tell=told.append)
    assert told == ["waits for step 4 to end"]


def write_log(run_dir: RunDir, generation: int, worker: str, text: str) -> None:
    file = run_dir.log_file(generation, worker)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as log:
        log.write(text)


def test_logs_are_read_as_they_grow(run_dir: RunDir) -> None:
    reader = LogReader(run_dir)
    assert list(reader.next_lines()) == []
    write_log(run_dir, 0, "east/0", "a look\n")
    assert list(reader.next_lines()) == []  # looks and probes are shown only where they are asked for
    write_log(run_dir, 1, "east/0", "one\ntw")
    write_log(run_dir, 1, "east/1", "other\n")
    assert sorted(reader.next_lines()) == [("east/0", "one"), ("east/1", "other")]
    write_log(run_dir, 1, "east/0", "o\nthree")
    assert list(reader.next_lines()) == [("east/0", "two")]
    assert list(reader.next_lines(last=True)) == [("east/0", "three")]
    write_log(run_dir, 2, "east/0", "again\n")
    assert list(reader.next_lines()) == [("east/0", "again")]


def test_logs_of_one_worker_or_one_generation(run_dir: RunDir) -> None:
    for generation, worker in ((0, "east/0"), (1, "east/0"), (1, "east/1"), (2, "east/1")):
        write_log(run_dir, generation, worker, f"{generation}\n")
    assert list(LogReader(run_dir, worker="east/0").next_lines()) == [("east/0", "1")]
    assert list(LogReader(run_dir, worker="east/1").next_lines()) == [("east/1", "2")]
    assert list(LogReader(run_dir, generation=0).next_lines()) == [("east/0", "0")]
    assert sorted(LogReader(run_dir, generation=1).next_lines()) == [("east/0", "1"), ("east/1", "1")]


def test_following_ends_with_the_run(run_dir: RunDir, controlled: Controller) -> None:
    lines: list[tuple[str, str]] = []

    def write(worker: str, line: str) -> None:
        lines.append((worker, line))
        write_log(run_dir, 1, "east/0", "last, without an end")
        run_dir.write_status(STOPPED)

    write_log(run_dir, 1, "east/0", "first\n")
    follow(LogReader(run_dir), write)
    assert lines == [("east/0", "first"), ("east/0", "last, without an end")]
