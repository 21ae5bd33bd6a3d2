"""What computing a part a second time takes (`fault.audit`): memory of every worker while it does
so, and what is sent for it. Formulas of the job and the plan; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dougong.job.schema import Job
from dougong.parallel.pieces import owned_specs
from dougong.parallel.plan import Inventory, Plan, Role
from dougong.planner.needs.dense_units import owned_gradient_bytes
from dougong.planner.needs.holdings import (
    dense_buckets,
    dense_gradient_bytes,
    expert_copy_bytes,
    expert_gradient_bytes,
    holdings,
    num_sums,
    of_sites,
    owning_bytes,
)

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
    owned, each = [one.num_trained for one in holdings(job, inventory, plan)], owning_bytes(job)
    expert = expert_copy_bytes(job, inventory)
    experts = [worker.num_experts * expert for worker in plan.workers]
    gradients = _gradient_bytes(job, inventory, plan)
    pieces = _piece_bytes(inventory, plan, each, owned)
    found = [AuditBytes(0, 0)] * len(plan.workers)
    for ranks in _alike(plan):
        # A worker that is alone takes its own part a second time; its experts are there.
        most_experts = _most_of_others(experts, ranks) if len(ranks) > 1 else [0]
        most_gradients = _most_of_others(gradients, ranks)
        most_state = _most_of_others(pieces, ranks)
        for place, rank in enumerate(ranks):
            memory = most_experts[place] + most_gradients[place] + most_state[place]
            sent = experts[rank] + owned[rank] * each if len(ranks) > 1 else 0
            found[rank] = AuditBytes(memory, sent)
    return found


def _alike(plan: Plan) -> list[list[int]]:
    """Ranks of the workers that can take each other's part over."""
    ranks: dict[Role, list[int]] = {}
    for worker in plan.workers:
        ranks.setdefault(worker.role_in_step, []).append(worker.rank)
    return list(ranks.values())


def _most_of_others(amounts: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """For each of these workers, by place, the largest amount of the others; its own where it is
    alone."""
    ordered = sorted(ranks, key=lambda rank: -amounts[rank])
    first, second = ordered[0], ordered[min(1, len(ordered) - 1)]
    return [amounts[second if rank == first else first] for rank in ranks]


def _gradient_bytes(job: Job, inventory: Inventory, plan: Plan) -> list[int]:
    """Of all sums of a worker's lanes, and of its experts."""
    buckets = dense_buckets(job, inventory, plan)
    experts = [expert_gradient_bytes(inventory, site) for site in inventory.sites]
    if job.dense == "shard":  # the lanes' own come and go, as in the step itself
        dense = owned_gradient_bytes(buckets, plan)
    else:
        one = dense_gradient_bytes(buckets)
        dense = [one * num_sums(job, worker) for worker in plan.workers]
    return [of_sites(worker, experts) + dense[worker.rank] for worker in plan.workers]


def _piece_bytes(inventory: Inventory, plan: Plan, each: int, owned: Sequence[int]) -> list[int]:
    """Of the largest piece, twice: where it lands, and where it is updated."""
    largest = max(inventory.sizes_of_an_expert, default=0)
    dense = owned_specs(inventory.tensors, plan.owners)
    largest = max(largest, *(tensor.num_parameters for tensor, _ in dense))
    return [2 * min(number * each, PIECE_BYTES + largest * each) for number in owned]
