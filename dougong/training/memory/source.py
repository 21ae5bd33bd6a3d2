"""What a generation's state is read from, wherever it lies: a checkpoint, or workers' memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, Protocol

from torch import Tensor

StateKey = tuple[str, str]
"""(group, name) of one tensor of the state; the group is "model", or an optimizer's state kind."""


Tier = Literal["own", "peer", "disk", "checkpoint"]
"""Where a tensor was read: this process's memory, another worker's, a node's own disk, the run's
storage."""


class StateSource(Protocol):
    """The state after one step, tensor by tensor. What it hands out is verified."""

    @property
    def step(self) -> int:
        """The last step that the state has seen; 0: none."""
        ...

    @property
    def ledger(self) -> str | None:
        """The ledger's digest after that step; None: there is none."""
        ...

    @property
    def tiers(self) -> Mapping[str, int]:
        """Bytes read so far, by where they were: `Tier`."""
        ...

    def names(self, group: str) -> Collection[str]:
        """The names that a group holds ("model", or an optimizer's state kind), of tensors or of
        pieces of them."""
        ...

    def read(self, group: str, name: str) -> Tensor:
        """A logical tensor, or by its name a piece of one, flat, on the CPU. Raises
        `CheckpointError` where there is none of that name."""
        ...
