"""A broken device, rehearsed: the lowest bit of one number in what one expert answers to one lane, once in a step.

`Flip.train` runs a part of a run with it; `flip_on_two` is an entry whose flip belongs to the layout of two workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from dougong.control.worker_api import WorkerContext
from dougong.parallel.exchange.expected import Received
from dougong.records.partial_run import PartialRun
from dougong.training import partial_run
from dougong.training.partial_run import run_part, tracer_for
from dougong.training.session import joined
from dougong.training.trainer import Trainer, build_trainer
from tests.training.spoiling import first_row_of


@dataclass(frozen=True)
class Flip:
    """Where and when. `bit`: of a float32's first number, 0 the lowest. The expert is the first that got a row."""

    step: int = 2
    lane: int = 1
    microbatch: int = 0
    site: int = 1
    bit: int = 0

    def prepare(self, trainer: Trainer) -> None:
        """Spoil the answers on their way to the lane, forward alone."""
        parts = trainer.stepper.parts
        dispatcher: Any = parts.share.dispatcher
        honest, gone = dispatcher.combine, []

        def combine(sent: Any, received: Received, keep: bool = False) -> None:
            here = (parts.exchange.step, *sent.key) == (self.step, self.site, self.microbatch)
            if here and self.lane in sent.calls and not gone:
                gone.append(sent)
                self._spoil(sent, received)
            honest(sent, received, keep)

        dispatcher.combine = combine

    def _spoil(self, sent: Any, received: Received) -> None:
        """The first row that comes back to the lane."""
        row = first_row_of(sent, self.lane)
        if row is not None:
            received.parts[0].view(torch.int32)[row, 0] ^= 1 << self.bit

    def train(self, context: WorkerContext) -> None:
        """A part of a run, as `partial_run.train` does it."""
        request = PartialRun.load(context.run_dir)
        tracer = tracer_for(request)
        with joined(context) as world:
            trainer = build_trainer(context, world, tracer)
            self.prepare(trainer)
            run_part(context, request, trainer, tracer)


def flip_on_two(context: WorkerContext) -> None:
    """A part of a run that goes wrong on two workers and nowhere else, whenever it is run."""
    if len(context.plan.workers) == 2:
        Flip(bit=16).train(context)
    else:
        partial_run.train(context)
