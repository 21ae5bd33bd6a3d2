"""The rule of every optimizer that a job file may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dougong.job.optimizers.declaration import OptimizerConfig
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.base import Optimizer

Rule = Callable[[Any, Mapping[str, Tensor]], Optimizer]
"""rule(the section that its declaration names, float32 tensors to train by name)."""

RULES: dict[str, Rule] = {OwnedAdamW.declaration.name: OwnedAdamW}
"""By the name in the job file."""


def make_optimizer(settings: OptimizerConfig, masters: Mapping[str, Tensor]) -> Optimizer:
    """The rule that the job's optimizer section names, over one worker's tensors."""
    return RULES[settings.name](settings, masters)
