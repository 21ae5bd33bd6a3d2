"""What computing a part a second time takes (`fault.audit`): memory of every worker while it does
so, and what is sent for it. Formulas of the job and the plan; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dougong.job.optimizers.declaration import FLOAT32_BYTES
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.plan_job import GRADIENT_BYTES, copy_bytes, owned_parameters

PIECE_BYTES = 64 << 20
"""Of another worker's state, at once; the tensor that fills it comes whole."""


@dataclass(frozen=True)
class AuditBytes:
    """Of one worker, for the largest part that it takes over in its turns.

    memory  beside its state: that part's experts, a second set of gradients, a piece of that part's
            masters and moments with the gradients' own copy
    sent    in an audited step: weights of its experts, masters and moments of all that it owns, to
            the worker that takes its part over; the step's messages are sent once more, too
    """

    memory: int
    sent: int


def audit_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[AuditBytes]:
    """By rank; nothing where the job audits no step."""
    if job.fault.audit is None:
        return [AuditBytes(0, 0) for _ in plan.workers]
    owned = owned_parameters(inventory, plan)
    each = FLOAT32_BYTES + declaration_of(job.optimizer).bytes_per_parameter(job.optimizer)
    found = []
    for worker in plan.workers:
        others = [w for w in plan.workers if w.role_in_step == worker.role_in_step and w != worker]
        parts = others or [worker]
        experts = max(_expert_parameters(inventory, part) for part in parts) if others else 0
        gradients = max(_gradient_parameters(inventory, part) for part in parts)
        state = max(_piece_bytes(inventory, each, owned[part.rank]) for part in parts)
        memory = experts * copy_bytes(job) + gradients * GRADIENT_BYTES + state
        mine = _expert_parameters(inventory, worker) * copy_bytes(job) + owned[worker.rank] * each
        found.append(AuditBytes(memory, mine if others else 0))
    return found


def _expert_parameters(inventory: Inventory, worker: Worker) -> int:
    return worker.num_experts * inventory.expert_parameters


def _gradient_parameters(inventory: Inventory, worker: Worker) -> int:
    dense = sum(tensor.num_parameters for tensor in inventory.tensors)
    return _expert_parameters(inventory, worker) + (dense if worker.lanes else 0)


def _piece_bytes(inventory: Inventory, each: int, owned: int) -> int:
    """Of the largest piece, twice: where it lands, and where it is updated."""
    largest = max(inventory.sizes_of_an_expert, default=0)
    largest = max(largest, *(tensor.num_parameters for tensor in inventory.tensors))
    return 2 * min(owned * each, PIECE_BYTES + largest * each)
