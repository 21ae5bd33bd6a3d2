"""The rule of every optimizer that a job file may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from dougong.job.schema import AdamW
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.base import Optimizer

RULES: dict[str, Callable[[AdamW, Mapping[str, Tensor]], Optimizer]] = {"adamw": OwnedAdamW}
"""By the name in the job file: rule(its section, the float32 tensors to train by name)."""


def make_optimizer(settings: AdamW, masters: Mapping[str, Tensor]) -> Optimizer:
    """The rule that the job's optimizer section names, over one worker's tensors."""
    return RULES[settings.name](settings, masters)
