"""What a step of a worker's has alive at most."""

from __future__ import annotations

from dougong.job.schema import Job
from dougong.models.memory.live_bytes import LiveBytes
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from tests.jobs import make_rig


def peaks_of_steps(world: World, plan: Plan, jobs: list[Job]) -> list[int]:
    """Of tensors that a step made while it ran, of each job, beside those of the step before."""
    found = []
    for job in jobs:
        rig = make_rig(job, plan, world)
        rig.stepper.gradients(1, rig.forwards(1))
        with LiveBytes() as alive:
            rig.stepper.forward_backward(2, rig.forwards(2))
        found.append(alive.peak)
        rig.stepper.close()
    return found
