"""A rehearsed fault fires in its step, is announced first, and fires once."""

from __future__ import annotations

import os
import signal

import pytest
from dougong.control.messages import decode, encode
from dougong.control.worker_messages import DrillAnnounced
from dougong.fault.drill import pending, rehearse
from dougong.job.schema import Drill

DRILL = Drill(at_step=3, kill="east/1")


@pytest.mark.parametrize(("step", "status"), [(2, 0), (3, -signal.SIGKILL), (4, 0)])
def test_a_drill_announces_and_then_kills_its_process_at_its_step_only(step: int, status: int) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rehearse([DRILL], step, lambda message: os.write(write_end, encode(message)))
        finally:
            os._exit(0)
    os.close(write_end)
    _, ended = os.waitpid(pid, 0)
    with os.fdopen(read_end, "rb") as pipe:
        frames = pipe.readlines()
    assert os.waitstatus_to_exitcode(ended) == status
    assert [decode(frame) for frame in frames] == ([DrillAnnounced(3, "kill")] if status else [])


def test_a_drill_that_has_fired_is_pending_no_more() -> None:
    other = Drill(at_step=3, kill="east/0")
    assert pending([DRILL, other], [(3, "east/1")]) == (other,)
    assert pending([DRILL], []) == (DRILL,)
