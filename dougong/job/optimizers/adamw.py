"""AdamW: its keys and its state. The rule is `training/optimizers/adamw.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat

from dougong.job.optimizers.declaration import (
    OptimizerConfig,
    OptimizerDeclaration,
    StateKind,
    of_every_tensor,
)
from dougong.job.optimizers.groups import GroupRates, ParameterGroup
from dougong.job.section import logical

Decay = Annotated[StrictFloat, Field(ge=0, lt=1)]


class AdamW(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019) with global gradient-norm clipping."""

    name: Literal["adamw"] = logical("adamw", "the update rule")
    weight_decay: Annotated[StrictFloat, Field(ge=0)] = logical(
        0.1, "decoupled weight decay, times the learning rate"
    )
    betas: tuple[Decay, Decay] = logical(
        (0.9, 0.95), "decay of the first and of the second moment's average"
    )
    eps: Annotated[StrictFloat, Field(gt=0)] = logical(
        1.0e-8, "added to the root of the second moment"
    )
    device: Literal["worker", "host"] = logical(
        "worker",
        "where master weights and moments lie and are updated: on the `worker`'s device, by torch; "
        "or in the memory of its `host`, by DeepSpeed's CPU Adam, for devices with little memory "
        "(other bits; needs `pip install dougong[deepspeed]` and a C++ compiler)",
    )

    state: Literal["float32", "bfloat16"] = logical(
        "float32",
        "what both moments are kept in; `bfloat16`: half of their memory, computed in float32 and "
        "rounded to nearest after each update (other bits; betas of at most 0.996, device: worker)",
    )

    groups: tuple[ParameterGroup, ...] = logical(
        (), "tensors with a learning rate and a weight decay of their own"
    )

    @property
    def rates(self) -> GroupRates:
        """Of each tensor."""
        return GroupRates(self.lr, self.weight_decay, self.groups)

    @property
    def is_on_host(self) -> bool:
        return self.device == "host"

    @property
    def has_half_state(self) -> bool:
        return self.state == "bfloat16"


ADAMW = OptimizerDeclaration(
    name="adamw",
    config=AdamW,
    state_kinds=(
        StateKind("step", like_parameter=False),
        StateKind("exp_avg"),
        StateKind("exp_avg_sq"),
    ),
    arithmetic="fused, whole tensors",
    arithmetic_on_host="DeepSpeed's CPU Adam, whole tensors",
    arithmetic_of_half_state="fused, whole tensors, moments rounded to bfloat16",
    is_elementwise=of_every_tensor,
)
