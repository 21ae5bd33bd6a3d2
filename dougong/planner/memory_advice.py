"""What helps a worker that ran out of memory, by the plan's account of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.job.schema import Job
from dougong.parallel.plan import Inventory, Plan, Worker
from dougong.planner.needs.refusal import gb, listed, together
from dougong.planner.needs.remedies import Remedies
from dougong.planner.needs.worker_memory import needed_memory


def memory_advice(
    job: Job, inventory: Inventory, plan: Plan, worker: str, memory_bytes: int | None, shared: bool
) -> str:
    """One sentence: what the plan counts at the peak, of how much, and which keys make it less.

    `memory_bytes`: of the worker's device, of its machine where workers share one (`shared`); None
    where it is not known.
    """
    there = _who_shares(plan, worker) if shared else [plan.worker(worker)]
    needed = needed_memory(job, inventory, plan)
    terms = together([needed[one.rank] for one in there], with_host=shared)
    total = sum(terms.values())
    counted = f"the plan counts {gb(total)} at the peak of {_who(there)}"
    if memory_bytes is not None:
        counted += f", of {gb(memory_bytes)}"
    if not terms:
        return counted
    words, remedies = f"{counted}: {listed(terms)}", Remedies(job, plan)
    if memory_bytes is None or total > memory_bytes:
        return f"{words}; {remedies.advice(terms)}"
    return (
        f"{words}; what came on top of that it does not know (experts that are chosen more often "
        f"than others, memory of libraries, other processes): {remedies.anywhere()}"
    )


def _who_shares(plan: Plan, worker: str) -> list[Worker]:
    node = plan.worker(worker).node
    return [one for one in plan.workers if one.node == node]


def _who(workers: Sequence[Worker]) -> str:
    if len(workers) == 1:
        return workers[0].name
    return f"the {len(workers)} workers on {workers[0].node}"
