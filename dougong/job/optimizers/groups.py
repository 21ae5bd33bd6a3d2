"""Groups of tensors with a rate and a decay of their own. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StrictFloat

from dougong.job.parts.patterns import is_among, parameter_name
from dougong.job.section import Section, Text, logical


class ParameterGroup(Section):
    """Tensors that are updated otherwise than the rest. A tensor belongs to the first group that
    matches its name."""

    match: Text = logical(
        ..., "pattern of the names of tensors (`*` stands for anything, dots too)"
    )
    lr: Annotated[StrictFloat, Field(gt=0)] | None = logical(
        None, "their peak learning rate, shaped by `schedule` as the job's; null: the job's"
    )
    weight_decay: Annotated[StrictFloat, Field(ge=0)] | None = logical(
        None, "their weight decay, of norms and biases too; null: the job's, on matrices only"
    )
    rule: Literal["adamw"] = logical("adamw", "their update rule")


@dataclass(frozen=True, order=True)
class TensorRates:
    """How one tensor is updated. `factor`: by which the step's learning rate is multiplied."""

    factor: float
    weight_decay: float


@dataclass(frozen=True)
class GroupRates:
    """An optimizer's own rate and decay, and those of its groups."""

    lr: float
    weight_decay: float
    groups: Sequence[ParameterGroup]

    def of(self, tensor: str, num_dimensions: int) -> TensorRates:
        """Of a tensor, by its name (an expert's with its number) and the dimensions of the whole
        one. Without a group matrices decay, norms and biases do not."""
        decay = self.weight_decay if num_dimensions >= 2 else 0.0
        number = self.group_of(tensor)
        if number is None:
            return TensorRates(1.0, decay)
        group = self.groups[number]
        factor = 1.0 if group.lr is None else group.lr / self.lr
        return TensorRates(factor, decay if group.weight_decay is None else group.weight_decay)

    def group_of(self, tensor: str) -> int | None:
        """The number of the first group that matches; None: no group does."""
        name = parameter_name(tensor)
        numbers = range(len(self.groups))
        return next((n for n in numbers if is_among([self.groups[n].match], name)), None)
