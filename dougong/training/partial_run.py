"""A part of a run, done on order: some steps, one of them traced, with or without a checkpoint at
the end. Workers run it in place of `trainer.train` for `dougong prove` and `dougong diff --trace`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dougong.parallel.trace.tracer import Tracer
from dougong.training.partial_run_request import PartialRun, StepTrace
from dougong.training.trainer import Trainer, joined

if TYPE_CHECKING:
    from dougong.control.worker_api import WorkerContext


def train(
    context: WorkerContext, prepare: Callable[[Trainer], None] = lambda trainer: None
) -> None:
    """Run the errand that lies in the run directory. Collective over the generation's workers.

    `prepare` is called with the trainer before its first step.
    """
    errand = PartialRun.load(context.run_dir)
    with joined(context) as world:
        tracer = Tracer(errand.trace) if errand.trace is not None else None
        trainer = Trainer(context, world, tracer)
        prepare(trainer)
        for step in range(trainer.first_step, errand.until + 1):
            trainer.run_step(step)
            if tracer is not None and step == errand.trace:
                StepTrace(trainer.sites, tracer.found).write(context.run_dir, context.worker.name)
        if (
            errand.save or errand.until == context.job.steps
        ):  # a job's last step has begun to save by itself
            trainer.finish()
