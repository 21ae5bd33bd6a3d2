"""A training worker in one generation: join it, build its part, run steps, leave.

The entry `train(context)` is called in every worker process of a generation, with the same job and
plan. A process whose peers are lost is called again for the next generation, with what it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

from dougong.accelerators.registry import get_accelerator
from dougong.addresses import read_ports
from dougong.control.worker.listen_ports import PortKeeper
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import WorkerWarning
from dougong.errors import RestError
from dougong.fault.drill import rehearse
from dougong.job.schema import Island
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.planner.needs.snapshot_bytes import keeps_snapshots
from dougong.training.departure import Departure
from dougong.training.drill.spoiler import Victim
from dougong.training.memory.local_disk import LocalDisk
from dougong.training.memory.state_memory import StateMemory
from dougong.training.start.channel_store import ChannelStore
from dougong.training.start.host_fallback import fallbacks_told
from dougong.training.start.links import probe_links
from dougong.training.step import StepParts
from dougong.training.trainer import Trainer, build_trainer


def train(context: WorkerContext) -> None:
    """Train from the context's checkpoint (or the beginning) to the job's last step, or until asked
    to stop.

    Returns when this worker's share of the last checkpoint is durable. Collective over the
    generation's workers. Raises PeerError when one of them is lost, or the generation is to be
    left; RestError when that was to be so after a step, and is.
    """
    memory = _memory(context)
    if context.rolls_back:
        memory.forget()
    departure = _departure(context, memory)
    with _fallbacks_told(context), joined(context, departure) as world:
        _tell_links(context, world)
        trainer = build_trainer(context, world, memory=memory)
        departure.free_by(trainer.abandon_save)
        victim = _victim(trainer.stepper.parts)
        for step in range(trainer.first_step, context.job.steps + 1):
            departure.check()
            rehearse(context.drills, step, context.control, victim.spoil)
            asked = trainer.run_step(step)
            if asked.stop:
                break
            if asked.rest and step < context.job.steps:
                _rest(trainer, step)
        trainer.finish()


def _rest(trainer: Trainer, step: int) -> NoReturn:
    """The end of a generation by order: every save is durable, and so is this step's state where no
    memory keeps it. Collective; raises RestError when all workers are so far."""
    memory = trainer.stepper.parts.memory
    if memory is None or not memory.keeps:
        trainer.finish()
    trainer.wait_for_save()
    raise RestError(f"this worker's generation ends after step {step}")


def _fallbacks_told(context: WorkerContext) -> AbstractContextManager[None]:
    """Operators that run on the host are told by the first worker of each island: the others have
    the same."""
    worker = context.worker
    first = next(other for other in context.plan.workers if other.island == worker.island)

    def tell(text: str) -> None:
        if worker == first:
            context.control.send(WorkerWarning(text))

    kinds = {island.name: island.accelerator for island in context.job.islands}
    return fallbacks_told(kinds[worker.island], tell)


def _victim(parts: StepParts) -> Victim:
    """Of drills that spoil numbers."""
    return Victim(parts.exchange, parts.share.replica, parts.share.optimizer)


@contextmanager
def joined(context: WorkerContext, departure: Departure | None = None) -> Iterator[World]:
    """The generation's world, for as long as all of its workers are in it. Collective.

    It is left when the block has come to its end. An error leaves it as it is: the controller is
    told first, and then the process ends, or `departure` leaves.
    """
    departure = departure or _departure(context, _memory(context))

    def note(arrival: Arrival) -> None:
        context.control.progress(0, "start", arrival)

    departure.check()
    note(Arrival.BEGINS)
    member = _membership(context)
    store = ChannelStore(context.control.ask, member.deadlines)
    # For as long as the world lasts: an island's native library listens when it first speaks.
    with PortKeeper(read_ports(context.job.ports)) as keeper:
        world = World.join(member, store, note)
        note(Arrival.BUILDS)
        departure.note_joined(world)
        keeper.check()
        yield world
        # Nobody leaves while a peer still waits for a message, or for storage.
        world.barrier("last_saves_s")
        world.leave()


def _tell_links(context: WorkerContext, world: World) -> None:
    """Try the links between islands, where there are some, and tell the controller once. Collective
    over the generation."""
    found = probe_links(world, context.plan)
    if found.links and world.rank == 0:
        context.control.send(found)


def _memory(context: WorkerContext) -> StateMemory:
    """The one of this process, over all generations."""
    memory = context.kept.get(StateMemory)
    if memory is None:
        memory = StateMemory(context.job.fault.snapshots, _local_disk(context))
        context.kept.keep(memory)
    memory.go_over(context.life)
    return memory


def _local_disk(context: WorkerContext) -> LocalDisk | None:
    """Where this node keeps snapshots, too, if the job names a folder."""
    folder = context.job.fault.snapshots.local
    if folder is None:
        return None
    return LocalDisk(Path(folder), context.run_dir, context.life, context.worker.name)


def _departure(context: WorkerContext, memory: StateMemory) -> Departure:
    kinds = {island.name: island.accelerator for island in context.job.islands}
    accelerator = get_accelerator(kinds[context.worker.island])
    return Departure(context.control, accelerator, memory)


def _membership(context: WorkerContext) -> Membership:
    """This worker's place in the world, and every island's native library."""
    job, plan, worker = context.job, context.plan, context.worker
    islands = {island.name: island for island in job.islands}
    accelerator = get_accelerator(islands[worker.island].accelerator)
    index = int(worker.device.rpartition(":")[2])
    return Membership(
        rank=worker.rank,
        size=len(plan.workers),
        generation=context.generation,
        island=worker.island,
        islands=tuple(_native_island(plan, island) for island in job.islands),
        device=accelerator.open(index, job.is_deterministic),
        attention=tuple(w.rank for w in plan.workers if w.lanes),
        names=tuple(w.name for w in plan.workers),
        deadlines=job.fault.limits(),
        address=context.address,
        is_over=lambda: context.control.leave_requested,
        keeps_snapshots=keeps_snapshots(job.fault.snapshots, plan),
        awaits=context.control.waits_for,
        paths=plan.paths,
    )


def _native_island(plan: Plan, island: Island) -> tuple[str, str, tuple[int, ...]]:
    """(name, its accelerator's own library, the ranks that this library reaches). Libraries of
    devices refuse two ranks on one (NCCL: duplicate GPU detected), so that workers of an island
    that shares a device speak by gloo alone."""
    ranks = tuple(w.rank for w in plan.workers if w.island == island.name)
    backend = "gloo" if island.shares_device else get_accelerator(island.accelerator).backend
    return island.name, backend, ranks
