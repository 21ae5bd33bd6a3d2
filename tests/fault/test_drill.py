"""A rehearsed fault comes in its step, is announced first, and comes once."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

import pytest
from dougong.control.messages import decode, encode
from dougong.control.progress import OrderedFault
from dougong.control.worker_messages import DrillAnnounced, WorkerMessage
from dougong.fault.drill import FiredDrill, identity, is_own, own_drills, pending, rehearse
from dougong.job.drills.drill import Drill

DRILL = Drill(at_step=3, kill="east/1")


@dataclass
class Line:
    """A worker's line whose messages outlive it; `ordered`: what the agent has left in its vector."""

    end: int
    ordered: list[OrderedFault] = field(default_factory=list)
    stop_requested: bool = False
    rest_requested: bool = False

    def send(self, message: WorkerMessage) -> None:
        os.write(self.end, encode(message))

    def progress(self, step: int, phase: str, operation: int) -> None:
        """Nobody looks."""

    def take_fault(self) -> OrderedFault | None:
        return self.ordered.pop() if self.ordered else None


def rehearsed(step: int, *ordered: OrderedFault) -> tuple[int, list[object]]:
    """How a process ends that begins this step, and what it has said."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rehearse([DRILL], step, Line(write_end, list(ordered)))
        finally:
            os._exit(0)
    os.close(write_end)
    _, ended = os.waitpid(pid, 0)
    with os.fdopen(read_end, "rb") as pipe:
        return os.waitstatus_to_exitcode(ended), [decode(frame) for frame in pipe.readlines()]


@pytest.mark.parametrize(("step", "status"), [(2, 0), (3, -signal.SIGKILL), (4, 0)])
def test_a_drill_announces_and_then_kills_its_process_at_its_step_only(step: int, status: int) -> None:
    said = [DrillAnnounced(3, "kill")] if status else []
    assert rehearsed(step) == (status, said)


def test_what_the_controller_has_announced_is_done_without_a_word() -> None:
    assert rehearsed(1, OrderedFault("segfault")) == (-signal.SIGSEGV, [])


def test_what_is_done_to_numbers_is_somebody_elses() -> None:
    spoilt: list[str] = []
    rehearse([Drill(at_step=1, fault="nan", on="east/1")], 1, Line(os.open(os.devnull, os.O_WRONLY)), spoilt.append)
    assert spoilt == ["nan"]


def test_a_drill_that_has_come_is_pending_no_more() -> None:
    other, late = Drill(at_step=3, kill="east/0"), Drill(after_s=3.0, fault="kill", on="east/1")
    assert pending([DRILL, other, late], {FiredDrill("kill", "east/1", 3)}) == (other, late)
    assert pending([DRILL, late], {identity(late)}) == (DRILL,)
    assert identity(Drill(at_step=3, fault="kill", on="east/1")) == identity(DRILL), "two ways to write one drill"


def test_a_worker_does_what_is_for_it_at_a_step() -> None:
    agent, late = Drill(at_step=3, fault="kill_agent", on="east/1"), Drill(after_s=3.0, fault="stop", on="east/1")
    other = Drill(at_step=3, kill="east/0")
    assert own_drills([DRILL, agent, late, other], "east/1") == (DRILL,)
    assert [is_own(drill) for drill in (DRILL, agent, late)] == [True, False, False]
