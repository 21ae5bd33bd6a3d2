"""A broken device, rehearsed: the lowest bit of one number in what one expert answers to one lane, once in a step.

`Flip.train` runs an errand with it; `flip_on_two` is an entry whose flip belongs to the layout of two workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dougong.launcher.worker import WorkerContext
from dougong.training import errand
from dougong.training.trainer import Trainer


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
        dispatcher: Any = trainer._stepper._executor._dispatcher
        honest, gone = dispatcher.to_attention, []

        def to_attention(handle: Any, served: Any) -> Mapping[int, Tensor]:
            answers: dict[int, Tensor] = honest(handle, served)
            here = (dispatcher.step, *handle.key) == (self.step, self.site, self.microbatch)
            if here and self.lane in answers and not gone:
                gone.append(handle)
                answers[self.lane].view(torch.int32)[0, 0] ^= 1 << self.bit
            return answers

        dispatcher.to_attention = to_attention

    def train(self, context: WorkerContext) -> None:
        errand.train(context, self.prepare)


def flip_on_two(context: WorkerContext) -> None:
    """An errand that goes wrong on two workers and nowhere else, whenever it is run."""
    errand.train(context, Flip(bit=16).prepare if len(context.plan.workers) == 2 else lambda trainer: None)
