"""Whether all workers are so: each is looked at until it is, and never again."""

from __future__ import annotations

from dougong.launcher.controller.inbound.worker_status import Everybody, WorkerStatus
from dougong.parallel.plan import Worker


def test_to_ask_after_every_message_looks_at_each_worker_a_few_times() -> None:
    """It was every worker after every message: a hundred million looks for ten thousand workers."""
    num_workers, looks = 1000, 0

    def is_there(status: WorkerStatus) -> bool:
        nonlocal looks
        looks += 1
        return status.is_there

    statuses = [
        WorkerStatus(Worker(f"east/{i}", i, "here", "both", "east", "cpu:0", (), ()), 0.0) for i in range(num_workers)
    ]
    everybody = Everybody(statuses, is_there)
    for number, status in enumerate(statuses):
        assert not everybody, f"{number} of {num_workers} are there"
        status.is_there = True
    assert everybody
    assert looks <= 2 * num_workers
    assert everybody and looks <= 2 * num_workers
