"""The island's native library on simulated devices, as strict as NCCL and HCCL: one communicator, one order, and so no
deadlock, whoever stops for a moment and whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from tests.simdev import build
from torch.distributed import TCPStore  # type: ignore[attr-defined]

pytestmark = pytest.mark.simulated

ROOT = Path(__file__).resolve().parents[3]
SIZE = 3


def run_steps(steps: int, schedule: str, *words: str, limit_s: int = 120, missing: str = "") -> list[tuple[int, str]]:
    """Exit status and last words of every worker."""
    build.built()  # once, and not against the clock
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SIMDEV_VENDOR": "sima",
        "SIMDEV_SYNCHRONISES": "1",
        "SIMDEV_MISSING": missing,
    }
    workers = []
    for rank in range(SIZE):
        command = [sys.executable, "-m", "tests.simdev.messages", str(rank), str(SIZE), str(store.port), str(steps)]
        workers.append(
            subprocess.Popen(
                [*command, schedule, *words],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [worker.communicate(timeout=limit_s)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [(worker.returncode, text.strip()) for worker, text in zip(workers, said, strict=True)]


def test_all_messages_of_many_steps_arrive_however_late_anybody_is() -> None:
    assert run_steps(25, "colocated") == [(0, "all steps have come to their end")] * SIZE


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["serial", "zebra", "af_pipe", "colocated"])
def test_of_a_thousand_steps_none_stands_still(schedule: str) -> None:
    ended = run_steps(250, schedule, limit_s=500)
    assert ended == [(0, "all steps have come to their end")] * SIZE


@pytest.mark.slow
def test_a_library_without_such_a_collective_sends_messages_one_by_one() -> None:
    assert run_steps(10, "zebra", missing="alltoall_base") == [(0, "all steps have come to their end")] * SIZE


@pytest.mark.slow
def test_a_worker_with_an_order_of_its_own_is_found() -> None:
    """That the library is strict enough to tell: two orders, and nobody comes to the end."""
    ended = run_steps(1, "serial", "swapped")
    assert [status for status, _ in ended] == [1] * SIZE
    assert all("waited 4 s (fault.deadlines.message_s)" in said or " lost worker" in said for _, said in ended), ended
