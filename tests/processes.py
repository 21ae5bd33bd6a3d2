"""Real worker processes for tests: forked from a server that has torch loaded, joined into one gloo world."""

from __future__ import annotations

import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from dougong.deadlines import DEADLINES, Deadlines
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.stores import store_at

DEADLINE_S = 120.0
CONTEXT = multiprocessing.get_context("forkserver")
# transformers imports lazily: without a family named here, every worker would spend two seconds importing its base.
CONTEXT.set_forkserver_preload(["tests.jobs", "transformers.models.qwen3_moe.modeling_qwen3_moe"])

Task = Callable[..., Any]
"""task(world, plan, *arguments) -> anything that pickles; runs in every worker."""


Islands = tuple[tuple[str, tuple[int, ...]], ...]
"""(name, ranks) of all islands of processors."""


def run_workers(
    task: Task, plan: Plan, *arguments: Any, deadlines: Deadlines = DEADLINES, islands: Islands | None = None
) -> list[Any]:
    """Run `task` in one process per worker of `plan`; returns the results by rank. Without `islands` they are one.

    Raises the first error of a worker, or TimeoutError; no process outlives the call.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    results: Any = CONTEXT.Queue()
    processes = [
        CONTEXT.Process(
            target=_worker, args=(task, rank, plan, store.port, results, arguments, deadlines, islands), daemon=True
        )
        for rank in range(len(plan.workers))
    ]
    try:
        for process in processes:
            process.start()
        return _collect(results, processes)
    finally:
        for process in processes:
            process.kill()
            process.join(10)


def _collect(results: Any, processes: Sequence[Any]) -> list[Any]:
    deadline = time.monotonic() + DEADLINE_S
    values: dict[int, Any] = {}
    while len(values) < len(processes):
        try:
            rank, value, error = results.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"workers {sorted(set(range(len(processes))) - set(values))} did not end") from None
        if error:
            raise AssertionError(f"worker {rank}:\n{error}")
        values[rank] = value
    return [values[rank] for rank in sorted(values)]


def _worker(
    task: Task,
    rank: int,
    plan: Plan,
    port: int,
    results: Any,
    arguments: tuple[Any, ...],
    deadlines: Deadlines,
    given: Islands | None,
) -> None:
    torch.set_num_threads(1)
    try:
        everybody = tuple(w.rank for w in plan.workers)
        islands = tuple((name, "gloo", ranks) for name, ranks in given or (("east", everybody),))
        island = next(name for name, _, ranks in islands if rank in ranks)
        attention = tuple(w.rank for w in plan.workers if w.lanes)
        names = tuple(w.name for w in plan.workers)
        device = torch.device("cpu")
        member = Membership(rank, len(everybody), 1, island, islands, device, attention, names, deadlines)
        world = World.join(member, store_at(port)) if len(everybody) > 1 else World.alone()
        results.put((rank, task(world, plan, *arguments), None))
        world.leave()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
