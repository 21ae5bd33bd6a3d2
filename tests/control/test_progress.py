"""The progress vector between two real processes."""

from __future__ import annotations

import os

import pytest
from dougong.control.progress import PHASES, OrderedFault, ProgressVector, WorkerProgress


def test_a_fresh_vector_says_nothing_yet() -> None:
    vector = ProgressVector.create()
    assert vector.read() == WorkerProgress(0, 0, "start", 0)
    assert not vector.stop_requested
    vector.close()


@pytest.mark.parametrize("fault", [OrderedFault("raise"), OrderedFault("hold_interpreter", 2.5)])
def test_a_fault_is_ordered_and_taken_once(fault: OrderedFault) -> None:
    vector = ProgressVector.create()
    assert vector.take_fault() is None
    vector.order_fault(fault)
    assert vector.take_fault() == fault and vector.take_fault() is None
    vector.close()


def test_a_forked_process_is_read_and_told_to_stop() -> None:
    vector = ProgressVector.create()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            theirs = ProgressVector(os.dup(vector.fd))
            theirs.write(7, "exchange", 3)
            theirs.write(8, "update", 4)
            os.write(write_end, b"x")
            while not theirs.stop_requested:
                pass
            code = 0
        finally:
            os._exit(code)
    os.read(read_end, 1)
    assert vector.read() == WorkerProgress(2, 8, "update", 4)
    vector.request_stop()
    assert os.waitpid(pid, 0)[1] == 0
    vector.close()


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_survives(phase: str) -> None:
    vector = ProgressVector.create()
    vector.write(1, phase, 0)
    assert vector.read().phase == phase
    vector.close()


def test_an_unknown_phase_is_our_mistake() -> None:
    vector = ProgressVector.create()
    with pytest.raises(KeyError, match="lunch"):
        vector.write(1, "lunch", 0)
    vector.close()
