"""The rule of every optimizer that a job file may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dougong.deepspeed.adam_build import load_adam
from dougong.job.schema import Job
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.base import NO_PIECES, Optimizer, Shapes
from dougong.training.optimizers.half_adamw import HalfAdamW
from dougong.training.optimizers.host_adamw import HostAdamW

Rule = Callable[[Any, Mapping[str, Tensor], Shapes], Optimizer]
"""rule(the section that its declaration names, float32 tensors to train by name, the shapes of
those of which some are pieces)."""

RULES: dict[str, Rule] = {OwnedAdamW.declaration.name: OwnedAdamW}
"""By the name in the job file."""

HALF_RULES: dict[str, Rule] = {HalfAdamW.declaration.name: HalfAdamW}
"""Those that `optimizer.state: bfloat16` means."""

HostRule = Callable[[Any, Mapping[str, Tensor], Any, Shapes], Optimizer]
"""rule(section, float32 tensors on the CPU by name, DeepSpeed's compiled library, shapes)."""

HOST_RULES: dict[str, HostRule] = {HostAdamW.declaration.name: HostAdamW}
"""Those that `optimizer.device: host` means."""


def make_optimizer(
    job: Job, masters: Mapping[str, Tensor], shapes: Shapes = NO_PIECES
) -> Optimizer:
    """The rule that the job's optimizer section names, over one worker's tensors. `shapes`: of
    whole tensors, by the names of those that are pieces. Raises DeviceError where it is one of the
    host, whose library is missing."""
    settings = job.optimizer
    if settings.is_on_host:
        return HOST_RULES[settings.name](settings, masters, load_adam(job), shapes)
    if settings.has_half_state:
        return HALF_RULES[settings.name](settings, masters, shapes)
    return RULES[settings.name](settings, masters, shapes)
