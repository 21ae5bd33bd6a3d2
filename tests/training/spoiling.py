"""What a broken kernel or a bad batch does to one step, rehearsed: NaN in one expert's outputs to one lane, or in one
expert's weight gradient on the worker that owns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dougong.control.worker_api import WorkerContext
from dougong.parallel.exchange.expected import Received
from dougong.training.session import joined
from dougong.training.trainer import Trainer, build_trainer

NAN = float("nan")


@dataclass
class SpoiledOutputs:
    """The first row that comes back to the lane at that site and micro-batch is NaN, in each of these steps. `times`:
    how often at most; a fault that passes is there once."""

    steps: tuple[int, ...]
    lane: int = 1
    microbatch: int = 0
    site: int = 1
    times: int = 1 << 30
    _count: int = field(default=0, init=False)

    def prepare(self, trainer: Trainer) -> None:
        parts = trainer.stepper.parts
        dispatcher: Any = parts.share.dispatcher
        honest = dispatcher.combine

        def combine(sent: Any, received: Received, keep: bool = False) -> None:
            here = parts.exchange.step in self.steps and sent.key == (self.site, self.microbatch)
            if here and self.lane in sent.calls and self._count < self.times:
                self._count += 1
                self._spoil(sent, received)
            honest(sent, received, keep)

        dispatcher.combine = combine

    def _spoil(self, sent: Any, received: Received) -> None:
        row = first_row_of(sent, self.lane)
        if row is not None:
            received.parts[0][row, 0] = NAN


def first_row_of(sent: Any, lane: int) -> int | None:
    """The place of the first row that comes back to a lane; they come by worker, then lane."""
    before = 0
    for worker, num_rows in enumerate(sent.crossings[lane].rows_D):
        for other, crossing in sent.crossings.items():
            if other == lane and num_rows:
                return before
            before += crossing.rows_D[worker]
    return None


@dataclass(frozen=True)
class SpoiledExpert:
    """An expert's weight gradient holds one NaN after micro-batch 1 of that step, on its owner alone."""

    step: int
    expert: int
    site: int = 1
    parameter: str = "down_proj"

    def prepare(self, trainer: Trainer) -> None:
        parts = trainer.stepper.parts
        shard: Any = parts.share.shard
        honest = shard.add_weights

        def add_weights(key: tuple[int, int]) -> None:
            honest(key)
            owned = shard.gradients[self.site]
            if parts.exchange.step == self.step and key == (self.site, 1) and self.expert in owned:
                owned[self.expert][self.parameter][2, 3] = NAN

        shard.add_weights = add_weights

    def train(self, context: WorkerContext) -> None:
        """What workers run in place of `session.train`."""
        with joined(context) as world:
            trainer = build_trainer(context, world)
            self.prepare(trainer)
            for step in range(trainer.first_step, context.job.steps + 1):
                trainer.run_step(step)
            trainer.finish()
