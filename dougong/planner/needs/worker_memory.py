"""The memory of every worker of a plan, term by term: the one account of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dougong.accelerators.registry import get_accelerator
from dougong.job.optimizers.declaration import FLOAT32_BYTES, WIDE_AT_ONCE
from dougong.job.schema import Job
from dougong.parallel.pieces import owned_specs
from dougong.parallel.plan import Inventory, Plan, TensorSpec, Worker
from dougong.planner.needs.activations import StepActivations
from dougong.planner.needs.audit_bytes import AuditBytes, audit_bytes
from dougong.planner.needs.dense_scratch import scratch_bytes
from dougong.planner.needs.holdings import (
    LINK_BYTES,
    NUM_LINKS,
    StateHolding,
    copy_bytes,
    dense_buckets,
    holdings,
    owning_bytes,
)
from dougong.planner.needs.snapshot_bytes import part_sizes, snapshot_bytes
from dougong.planner.needs.terms import Term, Terms, WorkerMemory, added

STEP, UPDATE, CHECKS = "forward and backward", "update", "checks of the state"
"""The phases of a step."""

SMALL_BYTES = 8 << 13
"""Of tensors whose bits are added up together (`ops.bit_sum`, on devices)."""
SMALL_COPIES = 3
CHECKSUM_BYTES = 12 << 24
"""Of the words of a checksum and their products, at most (`parallel.trace.checksum`, there)."""


def needed_memory(job: Job, inventory: Inventory, plan: Plan) -> list[WorkerMemory]:
    """By rank. Raises `PlanError` for a schedule that is not made for the plan's roles."""
    held = holdings(job, inventory, plan)
    scratch = scratch_bytes(job, plan, dense_buckets(job, inventory, plan))
    audits = audit_bytes(job, inventory, plan)
    step = StepActivations(job, inventory, plan)
    beside = _beside(job, inventory, plan)
    account = _Account(job, inventory, plan)
    found = []
    for worker, holding in zip(plan.workers, held, strict=True):
        rank = worker.rank
        sums = {Term.SCRATCH: scratch[rank]}
        is_beside = job.dense == "shard" and not account.is_near[worker.island]
        always = added([_state(holding), {} if is_beside else sums, _audits(audits[rank])])
        phases = {
            STEP: step.of(worker),
            UPDATE: account.update(holding),
            CHECKS: account.checks(worker, holding),
        }
        host = added([account.host(worker, holding), beside[rank], sums if is_beside else {}])
        unit = step.largest_unit if worker.lanes else None
        found.append(WorkerMemory(always, phases, host, unit))
    return found


def shares_machine(job: Job) -> Mapping[str, bool]:
    """By island, whether its workers compute in the machine's own memory."""
    return {one.name: get_accelerator(one.accelerator).shares_machine for one in job.islands}


def _state(held: StateHolding) -> Terms:
    found = {Term.WEIGHTS: held.weights, Term.GRADIENTS: held.gradients}
    if not held.on_host:
        found |= {Term.MASTERS: held.masters, Term.MOMENTS: held.moments}
    return found


def _audits(audit: AuditBytes) -> Terms:
    return {Term.AUDITS: audit.memory}


def _beside(job: Job, inventory: Inventory, plan: Plan) -> list[Terms]:
    """Of the machine's memory: copies of the state that are written, or kept for a recovery."""
    parts, snapshots = part_sizes(job, inventory, plan), snapshot_bytes(job, inventory, plan)
    pairs = zip(parts, snapshots, strict=True)
    return [{Term.STAGING: part.num_bytes, Term.SNAPSHOTS: kept.total} for part, kept in pairs]


@dataclass(frozen=True)
class _Account:
    """Of a job, its model and their plan."""

    job: Job
    inventory: Inventory
    plan: Plan

    def update(self, held: StateHolding) -> Terms:
        """What an update makes and throws away: moments in float32, where they are kept in half of
        it."""
        if not self.job.optimizer.has_half_state or not held.num_trained:
            return {}
        largest = max(self.inventory.sizes_of_an_expert, default=0)
        largest = max(largest, *(tensor.num_parameters for tensor, _ in self._dense))
        numbers = min(held.num_trained, max(WIDE_AT_ONCE, largest))
        return {Term.UPDATE: 2 * FLOAT32_BYTES * numbers}

    def checks(self, worker: Worker, held: StateHolding) -> Terms:
        """What sums of all bits take on a device for a moment: small tensors are joined and added
        up in running sums, thrice their bytes; the ledger's joins tensors, too, and makes products
        of twice their bytes, up to a limit. A processor takes them in its cache."""
        if not self.job.is_deterministic or self.is_near[worker.island]:
            return {}
        products = min(3 * FLOAT32_BYTES * held.num_trained, CHECKSUM_BYTES)
        return {Term.CHECKS: max(products, SMALL_COPIES * self._small_bytes(worker))}

    def _small_bytes(self, worker: Worker) -> int:
        """Of its small tensors: masters, moments, and compute copies in another precision."""
        copies = 0 if self.job.precision == "float32" else copy_bytes(self.job)
        each = owning_bytes(self.job) + copies
        experts = sum(n for n in self.inventory.sizes_of_an_expert if _is_small(n))
        total = worker.num_experts * experts * each
        for tensor, owner in self._small_dense:
            if owner == worker.rank:
                total += tensor.num_parameters * each
            elif worker.lanes and self.job.dense == "copy":
                total += tensor.num_parameters * copy_bytes(self.job)
        return total

    @cached_property
    def _small_dense(self) -> list[tuple[TensorSpec, int]]:
        return [(t, owner) for t, owner in self._dense if _is_small(t.num_parameters)]

    @cached_property
    def _dense(self) -> list[tuple[TensorSpec, int]]:
        """What is owned outside of the experts, and by whom."""
        return list(owned_specs(self.inventory.tensors, self.plan.owners))

    @cached_property
    def is_near(self) -> Mapping[str, bool]:
        """By island, whether its workers compute in the machine's memory."""
        return shares_machine(self.job)

    def host(self, worker: Worker, held: StateHolding) -> Terms:
        """What `optimizer.device: host` keeps beside a device, and what travels there."""
        if not held.on_host:
            return {}
        links = NUM_LINKS * LINK_BYTES
        return {Term.MASTERS: held.masters, Term.MOMENTS: held.moments, Term.LINKS: links}


def _is_small(num_parameters: int) -> bool:
    return FLOAT32_BYTES * num_parameters <= SMALL_BYTES
