"""A part of a run: some steps, one of them traced, with or without a checkpoint at the end. Workers
run it in place of `session.train` for `dougong prove` and `dougong diff --trace`.
"""

from __future__ import annotations

from dougong.control.worker_api import WorkerContext
from dougong.parallel.trace.tracer import Tracer
from dougong.records.partial_run import PartialRun, StepTrace
from dougong.training.session import joined
from dougong.training.trainer import Trainer, build_trainer


def train(context: WorkerContext) -> None:
    """Run the part that the run directory asks for. Collective over the generation's workers."""
    request = PartialRun.load(context.run_dir)
    tracer = tracer_for(request)
    with joined(context) as world:
        run_part(context, request, build_trainer(context, world, tracer), tracer)


def tracer_for(request: PartialRun) -> Tracer | None:
    """None where no step is to be traced."""
    return None if request.trace is None else Tracer(request.trace)


def run_part(
    context: WorkerContext, request: PartialRun, trainer: Trainer, tracer: Tracer | None
) -> None:
    """The steps that are asked for, and what they leave. `tracer`: the one the trainer was built
    with."""
    for step in range(trainer.first_step, request.until + 1):
        trainer.run_step(step)
    if tracer is not None:
        StepTrace(trainer.sites, tracer.found).write(context.run_dir, context.worker.name)
    # A job's last step has begun to save by itself: wait until that is durable.
    if request.save or request.until == context.job.steps:
        trainer.finish()
