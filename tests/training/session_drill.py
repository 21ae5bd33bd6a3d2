"""A training worker to which a drill does something as one step begins."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dougong.control.worker_api import WorkerContext
from dougong.job.drills.drill import Drill
from dougong.training import session


@dataclass(frozen=True)
class TrainWith:
    """An entry, for a process of its own."""

    worker: str
    fault: str
    step: int

    def __call__(self, context: WorkerContext) -> None:
        if context.worker.name == self.worker:
            # As it is: what a job file may not order is rehearsed here.
            drill = Drill.model_construct(at_step=self.step, fault=self.fault, on=self.worker)
            context = dataclasses.replace(context, drills=(drill,))
        session.train(context)


def train_with(worker: str, fault: str, step: int) -> TrainWith:
    """The fault happens to that worker as that step begins."""
    return TrainWith(worker, fault, step)


def train_as_named(context: WorkerContext) -> None:
    """An entry for whole runs: `flip-activation-1-4` is a job in whose first generation that happens to worker 1 as
    step 4 begins."""
    name, _, rest = context.job.job.rpartition("-")
    name, _, worker = name.rpartition("-")
    if context.generation == 1:
        train_with(f"east/{worker}", name.replace("-", "_"), int(rest))(context)
    else:
        session.train(context)
