"""What a process does to itself, in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dougong.fault.self_inflicted import can_inflict, inflict, signal_for
from dougong.job.drills.vocabulary import orderable


def ends(act: Callable[[], object]) -> int:
    """How a child ends that does this: its status, of a signal the negative number, of an exception 9."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(5)
        except BaseException:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("kill", -signal.SIGKILL),
        ("kill_controller", -signal.SIGKILL),
        ("segfault", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
        ("notice", -signal.SIGTERM),
        ("leave", 0),
        ("raise", 9),
        ("memory_error", 9),
    ],
)
def test_what_ends_a_process(name: str, status: int) -> None:
    assert ends(lambda: inflict(name)) == status


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("name", ["stop", "pause", "stop_controller"])
def test_a_stopped_process_goes_on_after_its_time(name: str) -> None:
    pid = os.fork()
    if pid == 0:
        inflict(name, 0.3)
        os._exit(5)
    deadline = time.monotonic() + 10
    while state_of(pid) != "T":
        assert time.monotonic() < deadline
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_what_a_job_file_may_order_somebody_can_do() -> None:
    """The worker itself, or its agent by a signal; what spoils numbers is the trainer's."""
    for fault in orderable():
        if fault.target == "worker" and fault.kind not in ("numerics", "corruption"):
            assert can_inflict(fault.name), fault.name
    assert signal_for("stop") == signal.SIGSTOP and signal_for("raise") is None
