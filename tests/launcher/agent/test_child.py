"""The agent's descriptors of a worker, with the worker's ends in the hands of this test or of a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.control.channel import Channel
from dougong.control.messages import LeaveGeneration, Ping, encode
from dougong.control.progress import ProgressVector, WorkerProgress
from dougong.control.tasks import InspectTask, TrainTask
from dougong.control.worker_messages import StoreReply
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.agent.child import LAST_LINES, Child
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import toy_job, wait_for

JOB = Job.model_validate(toy_job())
PLAN = make_plan(4, Inventory("toy", (), (), 16, ()), [Seat("east/0", "east", "both", "n", "cpu:0")])
TRAIN = TrainTask("a:b", JOB, PLAN, "/runs/toy", console="east/0")


def open_child(folder: Path, worker: str = "east/1") -> Child:
    return Child.open(worker, 3, TRAIN, WorkerLog(folder / "logs" / "0.log", StorageWriter("logs")), DEADLINES)


def await_log(folder: Path, text: bytes, name: str = "0.log") -> None:
    log = folder / "logs" / name
    wait_for(lambda: log.exists() and log.read_bytes() == text, f"{text!r} in the log", 10)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = open_child(tmp_path)
    yield made
    made.close()


def printed(child: Child, text: bytes) -> list[str]:
    """What is forwarded of an output that is written at once."""
    os.write(child.worker_ends[1], text)
    lines, is_open = child.read_output()
    assert is_open
    return lines


def test_a_process_speaks_over_all_of_its_ends(child: Child, tmp_path: Path) -> None:
    socket_end, output_end, _ = child.worker_ends
    script = f"import os; os.write(1, b'warning: hot\\n'); os.write({socket_end}, {encode(Ping())!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=output_end, pass_fds=[socket_end])
    child.close_worker_ends()
    assert process.wait(10) == 0
    assert child.read_output() == (["warning: hot"], False)
    assert child.channel.drain() == [Ping()]
    with pytest.raises(EOFError, match="worker east/1 closed the connection"):
        child.channel.drain()
    await_log(tmp_path, b"warning: hot\n")


def test_the_vector_is_shared(child: Child) -> None:
    vector = ProgressVector(os.dup(child.worker_ends[2]))
    vector.write(4, "update", 7)
    assert child.vector.read() == WorkerProgress(1, 4, "update", 7)
    child.vector.request_stop()
    assert vector.stop_requested
    vector.close()


def test_only_alarms_are_forwarded_but_everything_is_kept(child: Child, tmp_path: Path) -> None:
    assert printed(child, b"step 1\nUserWarning: old\nstep 2\n") == ["UserWarning: old"]
    assert list(child.last_lines) == ["step 1", "UserWarning: old", "step 2"]
    await_log(tmp_path, b"step 1\nUserWarning: old\nstep 2\n")


def test_every_line_of_the_console_worker_is_forwarded(tmp_path: Path) -> None:
    console = open_child(tmp_path, "east/0")
    assert console.task == "train"
    assert printed(console, b"step 1\nstep 2\n") == ["step 1", "step 2"]
    console.close()


def test_nobody_is_the_console_of_a_look(tmp_path: Path) -> None:
    looking = Child.open(
        "east/0", 0, InspectTask("a:b", JOB), WorkerLog(tmp_path / "0.log", StorageWriter("logs")), DEADLINES
    )
    assert looking.task == "inspect"
    assert printed(looking, b"looking\n") == []
    looking.close()


def test_a_line_is_held_back_until_it_is_whole(tmp_path: Path) -> None:
    console = open_child(tmp_path, "east/0")
    assert printed(console, b"begin") == []
    assert printed(console, b"ning\nend") == ["beginning"]
    console.close_worker_ends()
    assert console.read_output() == (["end"], False)
    console.close()


def test_a_progress_bar_shows_its_last_state_and_a_line_without_end_is_cut(tmp_path: Path) -> None:
    console = open_child(tmp_path, "east/0")
    assert printed(console, b" 10%\r 50%\r100%\n") == ["100%"]
    os.set_blocking(console.worker_ends[1], False)
    assert printed(console, b"x" * 20_000) == ["x" * 20_000]
    console.close()


def test_the_last_lines_are_few(child: Child) -> None:
    printed(child, b"".join(b"line %d\n" % i for i in range(50)))
    assert list(child.last_lines) == [f"line {i}" for i in range(50 - LAST_LINES, 50)]


def test_a_file_in_the_way_of_the_log_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("not a folder")
    before = len(os.listdir("/proc/self/fd"))
    child = open_child(tmp_path)
    child.close_worker_ends()
    child.close()
    wait_for(lambda: len(os.listdir("/proc/self/fd")) == before, "all are closed", 5)


def test_a_closed_child_has_no_descriptor_left(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    made = open_child(tmp_path)
    made.close_worker_ends()
    made.close()
    assert made.closed
    wait_for(lambda: set(os.listdir("/proc/self/fd")) == before, "all are closed", 5)


@pytest.mark.parametrize("worker", ["east/0", "east/1"])
def test_that_a_peer_has_no_name_is_in_the_log_alone(tmp_path: Path, worker: str) -> None:
    child = open_child(tmp_path, worker)
    line = b"[W1126 02:14:44.561204932 socket.cpp:207] [c10d] The hostname of the client socket cannot be retrieved."
    assert printed(child, line + b" err=-3\nwarning: hot\n") == ["warning: hot"]
    assert list(child.last_lines) == ["warning: hot"]
    await_log(tmp_path, line + b" err=-3\nwarning: hot\n")
    child.close_worker_ends()
    child.close()


def test_a_worker_that_does_not_read_holds_up_nobody(child: Child) -> None:
    """A stopped one: much more than a socket holds is handed over at once, and arrives in order once it reads."""
    replies = [StoreReply(number, "x" * 100_000) for number in range(40)]
    for reply in replies:
        child.tell(reply)
    child.tell(LeaveGeneration(3))
    worker = Channel(socket.socket(fileno=os.dup(child.worker_ends[0])), "the agent", DEADLINES)
    assert [worker.receive(30) for _ in range(41)] == [*replies, LeaveGeneration(3)]


def test_a_process_of_the_next_generation_has_another_log(child: Child, tmp_path: Path) -> None:
    printed(child, b"of the third\n")
    child.vector.request_stop()
    child.has_left = True
    log = WorkerLog(tmp_path / "logs" / "1.log", StorageWriter("logs"))
    child.take(4, replace(TRAIN, console="east/1"), log)
    printed(child, b"of the fourth\n")
    assert (child.generation, child.task, child.has_left, child.forward_all) == (4, "train", False, True)
    assert not child.vector.stop_requested
    await_log(tmp_path, b"of the third\n")
    await_log(tmp_path, b"of the fourth\n", "1.log")
