"""All optimizers that a job file can name. To add one: its declaration here, its rule in
`training/optimizers/`."""

from __future__ import annotations

from dougong.job.optimizers.adamw import ADAMW
from dougong.job.optimizers.declaration import OptimizerConfig, OptimizerDeclaration
from dougong.job.section import ChosenByName

DECLARATIONS: tuple[OptimizerDeclaration, ...] = (ADAMW,)
"""The first is what a job means that names none."""

CHOICE = ChosenByName({declaration.name: declaration.config for declaration in DECLARATIONS})


def declaration_of(config: OptimizerConfig) -> OptimizerDeclaration:
    """The declaration that a job's section `optimizer` belongs to."""
    return next(found for found in DECLARATIONS if found.name == config.name)
