"""A rehearsed fault fires in its step, tells first, and fires once."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

import pytest
from dougong.control.worker_messages import DrillAnnounced
from dougong.fault.drill import pending, rehearse
from dougong.job.schema import Drill

DRILL = Drill(at_step=3, kill="east/1")


@dataclass
class Told:
    """Writes what it is told into a pipe, as a worker's control does into its socket."""

    pipe: int

    def send(self, message: DrillAnnounced) -> None:
        os.write(self.pipe, f"{message.kind} {vars(message)}".encode())


@dataclass
class Context:
    """As much of a worker's context as a drill needs."""

    control: Told
    drills: tuple[Drill, ...] = (DRILL,)
    sent: list[str] = field(default_factory=list)


@pytest.mark.parametrize(("step", "status", "told"), [(2, 0, b""), (3, -signal.SIGKILL, b"drill"), (4, 0, b"")])
def test_a_drill_tells_and_then_kills_its_process_at_its_step_only(step: int, status: int, told: bytes) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rehearse(Context(Told(write_end)), step)
        finally:
            os._exit(0)
    os.close(write_end)
    _, ended = os.waitpid(pid, 0)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read()
    assert os.waitstatus_to_exitcode(ended) == status
    assert text.startswith(told)
    assert (b"'step': 3" in text) is (status != 0)


def test_a_drill_that_has_fired_is_pending_no_more() -> None:
    other = Drill(at_step=3, kill="east/0")
    assert pending([DRILL, other], [(3, "east/1")]) == (other,)
    assert pending([DRILL], []) == (DRILL,)
