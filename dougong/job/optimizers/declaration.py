"""What an optimizer declares of itself, free of torch: its keys, its state, what it costs.

The job's schema takes its keys from here, planner and checkpoint its state. How it computes is
`training/optimizers/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, StrictFloat

from dougong.job.section import Section, Text, logical

FLOAT32_BYTES = 4
WIDE_AT_ONCE = 1 << 24
"""Numbers of a state in half precision that an update makes wide together, so that many small
tensors cost few calls; a larger tensor is whole. What is made of one does not depend on others."""


class OptimizerConfig(Section):
    """The keys that every optimizer has: which one, the rate that `schedule` shapes, clipping."""

    name: Text = logical(..., "the update rule")
    lr: Annotated[StrictFloat, Field(gt=0)] = logical(3.0e-4, "peak learning rate")
    clip_norm: Annotated[StrictFloat, Field(gt=0)] | None = logical(
        1.0, "largest global norm of the gradients; null: no clipping"
    )

    @property
    def is_on_host(self) -> bool:
        """Whether masters and state lie in the memory of the worker's machine, and are updated
        there, wherever the worker computes."""
        return False

    @property
    def has_half_state(self) -> bool:
        """Whether what it keeps of a tensor's own shape is bfloat16, and not float32."""
        return False

    @property
    def state_item_bytes(self) -> int:
        """Of one number of it."""
        return FLOAT32_BYTES // 2 if self.has_half_state else FLOAT32_BYTES


@dataclass(frozen=True)
class StateKind:
    """One tensor that the optimizer keeps for each trained tensor, by the name that it has
    in a checkpoint.

    `like_parameter` True: of the trained tensor's shape, zero until its first update; float32, or
    bfloat16 where the job says so. False: one float32 number, which exists from the first update
    on.
    """

    name: str
    like_parameter: bool = True


ElementwiseRule = Callable[[str, tuple[int, ...]], bool]
"""rule(name of a tensor, its shape): whether it is updated element by element."""


def of_no_tensor(name: str, shape: tuple[int, ...]) -> bool:
    """For `is_elementwise`: every tensor is updated as a whole."""
    return False


def of_every_tensor(name: str, shape: tuple[int, ...]) -> bool:
    """For `is_elementwise`: no tensor is."""
    return True


@dataclass(frozen=True)
class OptimizerDeclaration:
    """One optimizer.

    name: what the job file says, `optimizer: {name: adamw}`; config: its section; state_kinds: what
    it keeps, in the order in which a checkpoint holds it; arithmetic: how its update computes, for
    the recipe, by which another release's bits are recognised; arithmetic_on_host: the same where
    it is done in the machine's memory; arithmetic_of_half_state: where the state is bfloat16.

    is_elementwise: of which tensors each element becomes what follows from its own value, gradient
    and state, and from what the whole tensor is told (its count of updates, rate, decay), so that
    pieces can be updated apart, with the same bits. Where nothing is declared, tensors stay whole.
    """

    name: str
    config: type[OptimizerConfig]
    state_kinds: tuple[StateKind, ...]
    arithmetic: str
    arithmetic_on_host: str = ""
    arithmetic_of_half_state: str = ""
    is_elementwise: ElementwiseRule = of_no_tensor

    def arithmetic_of(self, config: OptimizerConfig) -> str:
        """How the update of a job with this section computes."""
        if config.has_half_state:
            return self.arithmetic_of_half_state
        return self.arithmetic_on_host if config.is_on_host else self.arithmetic

    @property
    def kinds_like_parameters(self) -> tuple[str, ...]:
        """Names of the state kinds that have a parameter's shape: a checkpoint holds them for every
        trained tensor."""
        return tuple(kind.name for kind in self.state_kinds if kind.like_parameter)

    def bytes_per_parameter(self, config: OptimizerConfig) -> int:
        """Memory of the state of a job with this section, beside weights and gradients."""
        return config.state_item_bytes * len(self.kinds_like_parameters)
