"""The progress vector between two real processes."""

from __future__ import annotations

import os
import signal
import time

import pytest
from dougong.control.messages import Heartbeat, ProtocolError, decode, encode
from dougong.control.progress import MOST_RANKS, PHASES, OrderedFault, ProgressVector, WorkerProgress, ranks_of, runs_of
from tests.launcher.toyrun import wait_for


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


@pytest.mark.parametrize("ranks", [[], [0], [1, 61], [62, 2], [3, 700, 3967], [9999]])
def test_whom_a_worker_waits_for_is_a_set_of_ranks(ranks: list[int]) -> None:
    vector = ProgressVector.create()
    vector.wait_for([5, 1000])
    vector.wait_for(ranks)
    assert vector.read().awaited == sum(1 << rank for rank in ranks)
    vector.wait_for(())
    assert vector.read().awaited == 0
    vector.close()


def test_a_rank_beyond_the_vector_is_our_mistake() -> None:
    """It was left out without a word: who waited for rank 4000 alone seemed to wait for nobody, and was suspected."""
    vector = ProgressVector.create()
    vector.wait_for([MOST_RANKS - 1])
    assert vector.read().awaited == 1 << (MOST_RANKS - 1)
    with pytest.raises(IndexError):
        vector.wait_for([MOST_RANKS])
    vector.close()


@pytest.mark.parametrize("ranks", [[], [0], [0, 1, 2], [5], [0, 2, 3, 4, 9], [*range(700), *range(701, 10_000)]])
def test_a_set_of_ranks_travels_as_its_runs(ranks: list[int]) -> None:
    awaited = sum(1 << rank for rank in ranks)
    assert ranks_of(runs_of(awaited)) == awaited
    beat = Heartbeat(1, 1, {"east/700": WorkerProgress(1, 1, "forward", 0, 1, awaited)})
    frame = encode(beat)
    assert decode(frame) == beat and len(frame) < 400


@pytest.mark.parametrize("runs", ["7", '"all"', "[[2,1]]", "[[0,3],[3,4]]", "[[-1,2]]", f"[[0,{MOST_RANKS}]]", "[[1]]"])
def test_what_is_no_set_of_ranks_is_refused(runs: str) -> None:
    frame = encode(Heartbeat(1, 1, {"east/0": WorkerProgress(1, 1, "forward", 0, 1, 1)}))
    assert b'"awaited":[[0,0]]' in frame
    with pytest.raises(ProtocolError, match="awaited"):
        decode(frame.replace(b'"awaited":[[0,0]]', f'"awaited":{runs}'.encode()))


def test_the_pulse_of_a_living_process_goes_on_and_that_of_a_stopped_one_does_not() -> None:
    vector = ProgressVector.create()
    pid = os.fork()
    if pid == 0:
        ProgressVector(os.dup(vector.fd)).beat(0.001)
        time.sleep(60)
        os._exit(0)
    wait_for(lambda: vector.read().pulse > 3, "it beats", 20)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    stood = vector.read().pulse
    time.sleep(0.05)
    assert vector.read().pulse == stood
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: vector.read().pulse > stood, "it beats again", 20)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    vector.close()
