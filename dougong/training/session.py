"""The life of a training worker: join its generation, build its part, run steps, leave.

The entry `train(context)` is called in every worker process of a generation, with the same job and
plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dougong.accelerators.base import Accelerator
from dougong.accelerators.registry import get_accelerator
from dougong.addresses import read_ports
from dougong.control.listen_ports import PortKeeper
from dougong.control.worker_api import WorkerContext
from dougong.fault.drill import rehearse
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.start.channel_store import ChannelStore
from dougong.training.trainer import build_trainer


def train(context: WorkerContext) -> None:
    """Train from the context's checkpoint (or the beginning) to the job's last step, or until asked
    to stop.

    Returns when this worker's share of the last checkpoint is durable. Collective over the
    generation's workers.
    """
    with joined(context) as world:
        trainer = build_trainer(context, world)
        for step in range(trainer.first_step, context.job.steps + 1):
            rehearse(context.drills, step, context.control.send)
            if trainer.run_step(step):
                break
        trainer.finish()


@contextmanager
def joined(context: WorkerContext) -> Iterator[World]:
    """The generation's world, for as long as all of its workers are in it. Collective."""

    def note(arrival: Arrival) -> None:
        context.control.progress(0, "start", arrival)

    note(Arrival.BEGINS)
    member = _membership(context)
    # Kept by name until the groups have ended: they call it through its Python object, which their
    # own reference does not keep.
    store = ChannelStore(context.control.ask, member.deadlines)
    # For as long as the world lasts: an island's native library listens when it first speaks.
    with PortKeeper(read_ports(context.job.ports)) as keeper:
        world = World.join(member, store, note)
        note(Arrival.BUILDS)
        try:
            keeper.check()
            yield world
            # Not in `finally`: a worker that fails must not wait for its peers.
            world.barrier()  # nobody leaves while a peer still waits for a message
        finally:
            world.leave()


def _membership(context: WorkerContext) -> Membership:
    """This worker's place in the world, and every island's native library."""
    job, plan, worker = context.job, context.plan, context.worker
    accelerators = {island.name: get_accelerator(island.accelerator) for island in job.islands}
    index = int(worker.device.rpartition(":")[2])
    return Membership(
        rank=worker.rank,
        size=len(plan.workers),
        generation=context.generation,
        island=worker.island,
        islands=tuple(_native_island(plan, *item) for item in accelerators.items()),
        device=accelerators[worker.island].open(index, job.is_deterministic),
        attention=tuple(w.rank for w in plan.workers if w.lanes),
        names=tuple(w.name for w in plan.workers),
        deadlines=job.fault.limits(),
        address=context.address,
    )


def _native_island(
    plan: Plan, name: str, accelerator: Accelerator
) -> tuple[str, str, tuple[int, ...]]:
    """(name, its accelerator's own library, the ranks that this library reaches)."""
    ranks = tuple(w.rank for w in plan.workers if w.island == name)
    return name, accelerator.backend, ranks
