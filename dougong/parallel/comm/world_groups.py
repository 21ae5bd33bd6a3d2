"""The process groups of a generation, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.distributed as dist

from dougong.parallel.comm.native import NativeGroup
from dougong.parallel.schedules.operation import Direction, MessageKind


@dataclass(frozen=True)
class WorldGroups:
    """The process groups of a generation; those that a worker has no use for are not there.

    By gloo: `everybody` for gathers; `attention` for gradients and parameters; `snapshots` for
    copies of the state; `island` for what stays in the island, of each kind of message between
    attention and experts, and `far` for what leaves it; `more` of the last two and of `attention`
    for what crosses a bridge. `native`: the island's library.
    """

    everybody: dist.ProcessGroup | None = None
    attention: dist.ProcessGroup | None = None
    snapshots: dist.ProcessGroup | None = None
    island: Mapping[MessageKind, dist.ProcessGroup] = field(default_factory=dict)
    far: Mapping[Direction, dist.ProcessGroup] = field(default_factory=dict)
    native: NativeGroup | None = None
    more: Mapping[Direction | None, tuple[dist.ProcessGroup, ...]] = field(default_factory=dict)

    def connections(self, direction: Direction | None) -> tuple[dist.ProcessGroup, ...]:
        """All by gloo for what crosses bridges in this direction; None: gradients and
        parameters."""
        first = self.attention if direction is None else self.far.get(direction)
        return () if first is None else (first, *self.more.get(direction, ()))
