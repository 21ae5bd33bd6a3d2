"""An agent against a controller that this test plays: forks, exits, heartbeats, and the controller's disappearance."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

import pytest
from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.control.handshake import Hello
from dougong.control.messages import (
    AgentFailed,
    AgentReady,
    EndAgent,
    ForkServerReplaced,
    ForkWorkers,
    FromWorker,
    Heartbeat,
    KillWorkers,
    LeaveGeneration,
    Message,
    OutputLine,
    StopAfterStep,
    StopRun,
    WorkerExited,
    WorkerForked,
)
from dougong.control.processes import process_exists
from dougong.control.server import Server
from dougong.control.tasks import InspectTask, TrainTask
from dougong.control.worker_messages import ModelFound, PartDurable, StepDone, WorkerDone, WorkerRaised
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.agent.settings import AgentSettings
from dougong.parallel.plan import Inventory, Seat, make_plan
from tests.launcher.toyrun import ROOT, toy_job, wait_for

WORKERS = ("east/0", "east/1")
PATIENT = dataclasses.replace(DEADLINES, controller_silence_s=600.0)  # this controller does not ping
Kind = TypeVar("Kind", bound=Message)


class Played:
    """The controller's end of one agent process."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder
        (folder / "checkpoints").mkdir()
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), lambda text: None, DEADLINES)
        given: dict[str, Any] = {
            "name": "east",
            "island": "east",
            "accelerator": "cpu",
            "threads": 1,
            "deterministic": True,
            "controller": self.server.address,
            "token": "secret",
            "run_dir": str(folder),
            "preload": ("tests.launcher.entries",),
            "cwd": str(folder),
            "parent": os.getpid(),
            "deadlines": PATIENT,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dougong.launcher.kept.serve"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment({}),
            cwd=ROOT,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(AgentSettings(**(given | settings)).to_json() + "\n")
        self.process.stdin.close()
        hello, self.channel = self.peers.get(timeout=30)
        assert hello.agent is not None
        self.facts = hello.agent
        self.passed_over: list[Message] = []

    def until(self, kind: type[Kind], worker: str | None = None) -> Kind:
        """The next message of that class; what comes before it is passed over."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            message = self.channel.receive(60)
            if isinstance(message, kind) and worker in (None, getattr(message, "worker", None)):
                return message
            self.passed_over.append(message)
        raise AssertionError(f"no {kind}")

    def until_said(self, kind: type, worker: str) -> Any:
        """The next message of that class from a worker."""
        while True:
            inner = self.until(FromWorker, worker).message
            if isinstance(inner, kind):
                return inner

    def fork(self, generation: int, **config: Any) -> dict[str, int]:
        """Start both workers of a toy job; their process numbers."""
        seats = [Seat(worker, "east", "both", "n", f"cpu:{i}") for i, worker in enumerate(WORKERS)]
        task = TrainTask(
            entry="tests.launcher.entries:train",
            job=Job.model_validate(toy_job(**{"steps": 5000, "step_s": 0.02, **config})),
            plan=make_plan(4, Inventory("toy", (), (), 16, ()), seats),
            run_dir=str(self.path),
            console="east/0",
        )
        self.channel.send(ForkWorkers(generation, WORKERS, task))
        return {worker: self.until(WorkerForked, worker).pid for worker in WORKERS}

    def send_raw(self, data: bytes) -> None:
        """Write past the channel."""
        with socket.socket(fileno=os.dup(self.channel.fileno())) as sock:
            sock.sendall(data)

    def errors(self) -> str:
        """What the agent has printed by its end."""
        self.process.wait(15)
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.server.close()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    made = Played(tmp_path)
    yield made
    made.close()


def test_an_agent_says_where_it_is_and_with_what(played: Played) -> None:
    facts = played.facts
    assert (facts.agent, facts.island, facts.accelerator, facts.pid) == ("east", "east", "cpu", played.process.pid)
    assert facts.trouble is None  # nobody has asked
    assert facts.ray_node is None


def test_workers_step_and_heartbeats_tell_it(played: Played) -> None:
    played.fork(4)
    sequences: list[int] = []
    while len(sequences) < 3:
        heartbeat = played.until(Heartbeat)
        if heartbeat.progress and heartbeat.progress["east/0"].step > 2:
            sequences.append(heartbeat.sequence)
            assert heartbeat.generation == 4
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    assert isinstance(played.until(FromWorker, "east/0").message, StepDone | PartDurable)


def test_an_agent_of_a_large_run_tells_of_every_fifth_look(tmp_path: Path) -> None:
    played = Played(tmp_path, deadlines=PATIENT.of_workers(10_000))
    try:
        sequences = [played.until(Heartbeat).sequence for _ in range(3)]
    finally:
        played.close()
    assert sequences == [5, 10, 15]


def test_workers_end_after_their_step_when_asked(played: Played) -> None:
    played.fork(2)
    played.until_said(StepDone, "east/0")
    played.channel.send(StopAfterStep(1))  # of another generation: nobody listens
    played.until_said(StepDone, "east/0")
    played.channel.send(StopAfterStep(2))
    assert played.until_said(PartDurable, "east/0").step > 0
    played.until_said(WorkerDone, "east/0")
    assert played.until(WorkerExited, "east/0").code == 0


def test_a_death_is_told_with_its_signal_and_a_kill_as_asked_for(played: Played) -> None:
    pids = played.fork(1)
    os.kill(pids["east/1"], signal.SIGSEGV)
    first = played.until(WorkerExited, "east/1")
    assert (first.code, first.asked, first.generation, first.task) == (-11, False, 1, "train")
    played.channel.send(KillWorkers(1))
    second = played.until(WorkerExited, "east/0")
    assert (second.code, second.asked) == (-9, True)
    assert not any(process_exists(pid) for pid in pids.values())


def test_a_worker_that_dies_before_it_has_read_what_it_was_told_is_one_that_has_ended(played: Played) -> None:
    """Its agent goes on, and what the worker has said by then is heard."""
    pids = played.fork(1)
    os.kill(pids["east/0"], signal.SIGSTOP)
    played.channel.send(LeaveGeneration(1))
    os.kill(pids["east/0"], signal.SIGKILL)
    assert played.until(WorkerExited, "east/0").code == -signal.SIGKILL
    played.channel.send(KillWorkers(1))
    assert played.until(WorkerExited, "east/1").pid == pids["east/1"]


def test_an_exception_comes_before_the_end_with_what_was_printed_last(played: Played) -> None:
    fault = {"worker": "east/1", "step": 2, "do": "raise", "generation": 1}
    pids = played.fork(1, faults=[fault])
    raised = played.until_said(WorkerRaised, "east/1")
    assert (raised.type, raised.bases[:2]) == ("ValueError", ("ValueError", "Exception"))
    assert "the seventh seal is broken" in raised.message
    exited = played.until(WorkerExited, "east/1")
    assert (exited.pid, exited.code, exited.oom) == (pids["east/1"], 1, False)
    assert "ValueError: the seventh seal is broken on east/1" in exited.last_lines[-1]


def test_every_line_of_the_console_worker_is_forwarded(played: Played) -> None:
    played.fork(1)
    played.until_said(StepDone, "east/0")
    lines = [(said.worker, said.text) for said in played.passed_over if isinstance(said, OutputLine)]
    assert lines == [("east/0", "east/0 begins after step 0, generation 1")]
    assert "generation 1" in (played.path / "logs/1/east/1.log").read_text()


def test_the_next_generation_is_forked_beside_the_end_of_the_last(played: Played) -> None:
    before = played.fork(1)
    played.channel.send(KillWorkers(1))
    after = played.fork(2)
    assert not set(before.values()) & set(after.values())
    assert all(process_exists(pid) for pid in after.values())
    played.channel.send(KillWorkers(1))
    assert played.until(Heartbeat).generation == 2
    assert all(process_exists(pid) for pid in after.values())


def test_a_child_that_inspects_answers_with_what_it_found(played: Played) -> None:
    task = InspectTask("tests.launcher.entries:inspect", Job.model_validate(toy_job()))
    played.channel.send(ForkWorkers(0, ("east/0",), task))
    carried = played.until(FromWorker)
    assert (carried.generation, carried.worker, carried.task) == (0, "east/0", "inspect")
    assert carried.message == ModelFound(Inventory("toy", (), (), 16, ()), {"name": "stdlib", "digest": "toy"})
    assert played.until(WorkerExited).code == 0


def test_a_worker_without_a_log_does_its_work(played: Played) -> None:
    played.until(AgentReady)
    (played.path / "logs").write_text("a file in the way")
    task = InspectTask("tests.launcher.entries:inspect", Job.model_validate(toy_job()))
    played.channel.send(ForkWorkers(0, ("east/0",), task))
    assert played.until(WorkerExited).code == 0


@pytest.mark.parametrize("way", ["close", "end"])
def test_nothing_outlives_the_controller(played: Played, way: str) -> None:
    ready = played.until(AgentReady)
    pids = [*played.fork(1).values(), ready.fork_server_pid]
    if way == "close":
        played.channel.close()
    else:
        played.channel.send(EndAgent())
    played.process.wait(15)
    wait_for(lambda: not any(process_exists(pid) for pid in pids), "all are gone", 10)


def test_malformed_and_foreign_messages_are_reported_and_passed_over(played: Played) -> None:
    played.until(AgentReady)
    played.send_raw(b'no message at all\n{"kind":"dance"}\n{"kind":"kill_workers","generation":"x"}\n')
    played.channel.send(StopRun())
    played.fork(1)
    played.channel.send(EndAgent())
    text = played.errors()
    assert "unknown message kind dance" in text
    assert "kill_workers.generation is 'x'" in text
    assert "agent east: the controller sent stop_run, which is not for an agent" in text


def test_malformed_messages_of_a_worker_are_shown_and_cost_it_nothing(played: Played) -> None:
    fault = {"worker": "east/1", "step": 2, "do": "garble", "generation": 1}
    played.fork(1, faults=[fault], steps=4)
    text = played.until(OutputLine, "east/1").text
    assert text.startswith("warning: malformed message: worker east/1: not a message: b'no message at all'")
    assert played.until(OutputLine, "east/1").text.endswith("end_agent is not for a worker to send")
    played.until_said(WorkerDone, "east/1")


def test_a_silent_controller_is_given_up_and_named(tmp_path: Path) -> None:
    deadlines = dataclasses.replace(DEADLINES, controller_silence_s=0.5)
    made = Played(tmp_path, deadlines=deadlines)
    try:
        port = made.server.address[1]
        assert f"nothing has come from controller at 127.0.0.1:{port} for 0.5 s" in made.errors()
        assert made.process.returncode == 1
    finally:
        made.close()


def test_a_module_that_cannot_be_imported_is_told_with_its_traceback(tmp_path: Path) -> None:
    made = Played(tmp_path, preload=("no_such_module",))
    try:
        assert "No module named 'no_such_module'" in made.until(AgentFailed).text
        made.process.wait(15)
    finally:
        made.close()


def test_a_fork_server_that_is_lost_takes_no_worker_with_it(played: Played) -> None:
    pid = played.until(AgentReady).fork_server_pid
    pids = played.fork(1, steps=2000, step_s=0.05)
    os.kill(pid, signal.SIGKILL)
    replaced = played.until(ForkServerReplaced)
    assert replaced.text == f"fork server (pid {pid}) was ended by SIGKILL"
    assert replaced.fork_server_pid != pid and all(process_exists(pid) for pid in pids.values())
    # What is asked for meanwhile waits for the new one; who has ended is seen by the agent itself.
    played.channel.send(KillWorkers(1))
    ended = [played.until(WorkerExited) for _ in pids]
    assert {(exited.worker, exited.code) for exited in ended} == {(name, -signal.SIGKILL) for name in pids}
    assert len(played.fork(2, steps=2)) == 2
    played.until_said(WorkerDone, "east/1")


def test_a_fork_server_that_is_stopped_is_given_up_and_named(tmp_path: Path) -> None:
    made = Played(tmp_path, deadlines=dataclasses.replace(PATIENT, hang_s=1.0))
    try:
        pid = made.until(AgentReady).fork_server_pid
        os.kill(pid, signal.SIGSTOP)
        replaced = made.until(ForkServerReplaced)
        limit = "1 s (fault.deadlines.hang_s)"
        assert replaced.text == f"fork server (pid {pid}) was stopped, and was given up after {limit}"
        assert replaced.hung is not None
        assert (replaced.hung.owes, replaced.hung.state) == ("was stopped", "T") and replaced.hung.since_s > 1.0
        assert set(made.fork(1)) == set(WORKERS)
    finally:
        made.close()


def test_fork_servers_that_are_lost_again_and_again_before_they_are_ready_end_their_agent(
    played: Played,
) -> None:
    """As when there is no memory for what workers import. One or two may have met with an accident."""
    agent = played.process.pid
    (first,) = wait_for(lambda: Path(f"/proc/{agent}/task/{agent}/children").read_text().split(), "its fork server")
    pid = int(first)
    for _ in range(2):
        os.kill(pid, signal.SIGKILL)
        replaced = played.until(ForkServerReplaced)
        assert replaced.text == f"fork server (pid {pid}) was ended by SIGKILL"
        assert not replaced.is_ready, "no other one stood by"
        pid = replaced.fork_server_pid
    os.kill(pid, signal.SIGKILL)
    failed = played.until(AgentFailed)
    assert (failed.text, failed.what) == (f"fork server (pid {pid}) was ended by SIGKILL", "fork_server")
    played.process.wait(15)


def test_a_fork_server_that_is_lost_at_its_start_is_replaced(played: Played) -> None:
    agent = played.process.pid
    (pid,) = wait_for(lambda: Path(f"/proc/{agent}/task/{agent}/children").read_text().split(), "its fork server")
    os.kill(int(pid), signal.SIGKILL)
    assert played.until(AgentReady).fork_server_pid != int(pid)
    assert set(played.fork(1)) == set(WORKERS)


def test_a_second_fork_server_stands_by_when_training_has_lasted(tmp_path: Path) -> None:
    made = Played(tmp_path, deadlines=dataclasses.replace(PATIENT, second_fork_server_s=0.1))
    try:
        first, agent = made.until(AgentReady).fork_server_pid, made.process.pid
        pids = made.fork(1, steps=2000, step_s=0.05)
        children = Path(f"/proc/{agent}/task/{agent}/children")

        def others() -> set[int]:
            return set(map(int, children.read_text().split())) - {first, *pids.values()}

        (second,) = wait_for(others, "the second one")
        os.kill(first, signal.SIGKILL)
        assert made.until(ForkServerReplaced).fork_server_pid == second
        wait_for(lambda: others() - {second}, "a third one stands by")
    finally:
        made.close()
