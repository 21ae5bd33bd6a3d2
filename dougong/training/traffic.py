"""The bytes of a step between islands: planned from the job, and as they were sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.job.schema import Job
from dougong.models.inventory import inventory_of
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.world import World
from dougong.parallel.pieces import owned_specs
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.parallel.replica_holders import replica_holders
from dougong.parallel.traffic import (
    Flow,
    Link,
    Pairs,
    Product,
    Ring,
    StepShape,
    bytes_by_link,
    flows_of_calls,
    flows_of_dense,
    islands_of,
)
from dougong.planner.needs.snapshot_bytes import part_sizes, takes_snapshots
from dougong.training.ledger import TOTALS_BYTES
from dougong.training.memory.replicas import replica_bytes
from dougong.training.results.reports import ENTRY_BYTES, report_bytes
from dougong.training.step import WorkerShare

COUNT_BYTES = 8
"""The number of slots that went to one expert, int64."""
_VALUE_BYTES = {"float32": 4, "bfloat16": 2}


def flows_of_step(job: Job, inventory: Inventory, plan: Plan) -> list[Flow]:
    """All that a step sends between workers. What an evaluation or a checkpoint sends is not of
    it."""
    shape = StepShape(
        num_microbatches=job.batch.microbatches,
        num_tokens=job.batch.microbatch_size * job.data.sequence_length,
        value_bytes=_VALUE_BYTES[job.precision],
        combine=job.combine,
        is_layout_free=job.is_layout_free,
        is_sharded=job.dense == "shard",
    )
    return [
        *flows_of_calls(shape, inventory, plan),
        *flows_of_dense(shape, inventory, plan),
        _flow_of_reports(job, inventory, plan),
        *_flows_of_counts(job, inventory, plan),
        _flow_of_replicas(job, inventory, plan),
    ]


def _flow_of_reports(job: Job, inventory: Inventory, plan: Plan) -> Flow:
    """What everybody tells everybody: a report, the losses of the router, checksums."""
    num_trained = [0] * len(plan.workers)
    for tensor, owner in owned_specs(inventory.tensors, plan.owners):
        if tensor.trainable:
            num_trained[owner] += 1
    num_dense = sum(tensor.trainable for tensor in inventory.tensors)
    ledger = TOTALS_BYTES if job.is_deterministic else 0
    entry = ENTRY_BYTES if job.router.has_loss else 0
    told = []
    for worker in plan.workers:
        num_losses = len(worker.lanes) * job.batch.microbatches
        num_squares = num_trained[worker.rank] + _num_expert_tensors(inventory, worker)
        report = report_bytes(num_losses, num_squares, num_dense if worker.lanes else 0)
        told.append(float(report + entry * num_losses + ledger))
    return Product(TrafficKind.REPORTS, told, [1.0] * len(told))


def _num_expert_tensors(inventory: Inventory, worker: Worker) -> int:
    found = 0
    for site, experts in zip(inventory.sites, worker.experts, strict=True):
        found += len(experts) * len(inventory.trained_shapes(site))
    return found


def _flows_of_counts(job: Job, inventory: Inventory, plan: Plan) -> Iterator[Flow]:
    """The experts' load: of the step, and for a loss over the global batch of each micro-batch."""
    num_bytes = COUNT_BYTES * len(inventory.sites) * (inventory.num_experts + 1)
    everybody = [worker.rank for worker in plan.workers]
    yield Ring(TrafficKind.COUNTS, everybody, num_bytes)
    if job.router.global_loss is not None:
        attention = [worker.rank for worker in plan.workers if worker.lanes]
        yield Ring(TrafficKind.COUNTS, attention, job.batch.microbatches * num_bytes)


def _flow_of_replicas(job: Job, inventory: Inventory, plan: Plan) -> Flow:
    """Each worker's state to those who keep it, once in `every` steps."""
    snapshots = job.fault.snapshots
    pairs: dict[tuple[int, int], float] = {}
    if takes_snapshots(job, plan):
        sizes = part_sizes(job, inventory, plan)
        for rank, holders in enumerate(replica_holders(plan, snapshots.num_replicas)):
            num_bytes = replica_bytes(sizes[rank].num_bytes, sizes[rank].num_tensors)
            pairs |= {(rank, holder): num_bytes / snapshots.every for holder in holders}
    # What computes nothing has rows that the inventory does not tell apart.
    is_exact = snapshots.every == 1 and not inventory.num_idle_experts
    return Pairs(TrafficKind.REPLICAS, pairs, is_exact)


class TrafficMeter:
    """Counts what the steps of a generation send between islands."""

    def __init__(self, job: Job, inventory: Inventory, plan: Plan, world: World) -> None:
        self._world = world
        self._places = islands_of(plan)
        self._planned = bytes_by_link(flows_of_step(job, inventory, plan), self._places)
        self._sent = self._none()
        self._num_steps = 0

    @staticmethod
    def of(share: WorkerShare, world: World) -> TrafficMeter:
        """Of one worker's steps."""
        blueprint = share.blueprint
        inventory = inventory_of(blueprint.config, blueprint.model, blueprint.sites)
        return TrafficMeter(blueprint.job, inventory, share.plan, world)

    def _none(self) -> NDArray[np.int64]:
        return np.zeros_like(self._now())

    def _now(self) -> NDArray[np.int64]:
        """Bytes and messages so far, [2, kinds, workers]."""
        return np.stack([self._world.sent.num_bytes, self._world.sent.num_messages])

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is sent inside belongs to one step."""
        before = self._now()
        yield
        self._sent += self._now() - before
        self._num_steps += 1

    def row(self) -> dict[str, Any]:
        """The mean step since the last call, for a row of metrics: by link, the bytes of each kind
        as planned and as sent, and the number of messages. Collective."""
        if self._world.size == 1:
            return {}
        sent = self._gather() / self._num_steps
        links: dict[str, Any] = {}
        for source, ranks in self._places.items():
            of_source = sent[ranks].sum(0)
            for target, (num_bytes, num_messages) in zip(self._places, of_source, strict=True):
                if num_bytes.any():
                    link = self._link_row((source, target), num_bytes)
                    links[f"{source} > {target}"] = link | {"messages": float(num_messages.sum())}
        row = {"traffic": {"steps": self._num_steps, "links": links}}
        self._sent, self._num_steps = self._none(), 0
        return row

    def _gather(self) -> NDArray[np.int64]:
        """What everybody has sent to each place, [workers, places, 2, kinds]."""
        mine = np.stack([self._sent[:, :, ranks].sum(-1) for ranks in self._places.values()])
        sizes = [mine.nbytes] * self._world.size
        payloads = self._world.gather_bytes(mine.tobytes(), sizes, "bytes sent")
        return np.stack([np.frombuffer(p, np.int64).reshape(mine.shape) for p in payloads])

    def _link_row(self, link: Link, num_bytes: NDArray[np.float64]) -> dict[str, Any]:
        planned = self._planned.get(link, {})
        return {
            "planned": _by_name({kind: of.num_bytes for kind, of in planned.items()}),
            "sent": _by_name(dict(zip(TrafficKind, num_bytes, strict=True))),
        }


def _by_name(amounts: Mapping[TrafficKind, float]) -> dict[str, float]:
    return {kind.value: round(float(amount), 1) for kind, amount in amounts.items() if amount}
