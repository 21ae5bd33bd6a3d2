"""colocated: expert parallelism as everybody knows it.

All workers have attention and experts and move in step.

    every worker   F(0,1) experts F(0,1) F(1,1) .. F(L,1)
                   B(L,1) experts B(L-1,1) W(L-1,1) .. B(0,1) | F(0,2) .. | ..

Nobody waits for the other side to compute, only for the messages and for the worker with the most
rows; the gradients of the experts' weights (W) hide the way back of the rows' gradients.
"""

from __future__ import annotations

from dougong.errors import PlanError
from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Operation
from dougong.parallel.schedules.order import lay_out
from dougong.parallel.schedules.serial import one_after_the_other


def colocated(num_sites: int, num_microbatches: int, role: Role) -> list[Operation]:
    """For workers of both roles only: raises `PlanError` for another. Keeps one micro-batch
    alive."""
    if role != "both":
        raise PlanError(
            f"schedule `colocated` and a worker with `role: {role}`: that schedule is for workers "
            "which have attention and experts. Choose `zebra`, `af_pipe` or `serial`, or give "
            "every island `role: both`"
        )
    return lay_out(one_after_the_other(num_sites, num_microbatches), num_sites, role)
