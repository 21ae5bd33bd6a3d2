"""The most memory that the steps of a worker took of its device, as the device's allocator counts it, what was planned,
and the bits that came of them: JSON.

python -m tests.device_peaks ACCELERATOR JOB [RANK PORT]     (JSON: changes of `make_job`, with `family`, and perhaps
the `piece_numel` of large tensors; the worker's rank, and where the workers' store is)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from dougong.accelerators.registry import get_accelerator
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.planner.needs.terms import added
from dougong.planner.needs.worker_memory import needed_memory
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import plan_job
from dougong.training.build import LedgerStart, StepOptions, build_model, rebuild
from dougong.training.start.preflight import inspect_only
from dougong.training.state import open_start
from tests.jobs import Rig, make_job
from tests.stores import store_at

STEPS = 3


def measure(job: Job, device: torch.device, rank: int, port: int, folder: str) -> dict[str, Any]:
    """Of one of a job's workers, in bytes: `planned`, `measured`, what was planned by term; and `losses`, as bits.
    Nothing is measured on a processor."""
    inventory = inspect_only(job)
    plan = plan_job(job, inventory, seats_of_job(job.islands))
    memory = needed_memory(job, inventory, plan)[rank]
    world = world_of(plan, device, rank, port)
    operators = get_accelerator(device.type).expert_operators()
    blueprint = build_model(job, int(job.model.config["vocab_size"]), device, operators)
    with open_start(job, blueprint.names, None) as start:
        ledger = LedgerStart(Path(folder))
        stepper = rebuild(blueprint, plan, world, start, StepOptions(ledger=ledger))
    rig = Rig(job, plan, stepper.parts.share.replica, stepper, rank)
    losses = [rig.stepper.run(1, rig.forwards(1)).loss]
    counts = device.type != "cpu"  # a processor has no allocator that counts
    if counts:
        torch.accelerator.reset_peak_memory_stats()
    between = torch.accelerator.memory_allocated() if counts else 0
    losses += [rig.stepper.run(step, rig.forwards(step)).loss for step in range(2, STEPS + 1)]
    measured = torch.accelerator.max_memory_allocated() if counts else 0
    terms = {term.words: num_bytes for term, num_bytes in memory.at_peak.items()}
    stepper.close()
    world.leave()
    always = sum(added([memory.always]).values())
    found = {"planned": memory.peak, "measured": measured, "always": always, "between": between, "terms": terms}
    return found | {"losses": [loss.hex() for loss in losses]}


def world_of(plan: Plan, device: torch.device, rank: int, port: int) -> World:
    if len(plan.workers) == 1:
        return World.alone(device)
    ranks: dict[str, tuple[int, ...]] = {}
    for worker in plan.workers:
        ranks[worker.island] = (*ranks.get(worker.island, ()), worker.rank)
    library = get_accelerator(device.type).backend
    islands = tuple((name, library, those) for name, those in ranks.items())
    attention = tuple(worker.rank for worker in plan.workers if worker.lanes)
    names = tuple(worker.name for worker in plan.workers)
    island = plan.workers[rank].island
    paths = plan.paths
    member = Membership(rank, len(names), 1, island, islands, device, attention, names, DEADLINES, paths=paths)
    return World.join(member, store_at(port))


def main(accelerator: str, changes: str, rank: str = "0", port: str = "0") -> None:
    values = json.loads(changes)
    pieces.PIECE_NUMEL = values.pop("piece_numel", pieces.PIECE_NUMEL)
    device = get_accelerator(accelerator).open(0)
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(values.pop("family"), **values)
        print(json.dumps(measure(job, device, int(rank), int(port), folder)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # threads that wait for a peer hold up nobody
