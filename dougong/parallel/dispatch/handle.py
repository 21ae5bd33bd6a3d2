"""What each side keeps of one experts call, from its dispatch to the gradients of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dougong.ops.experts.base import Block
from dougong.ops.permute import Routing
from dougong.parallel.dispatch.crossing import CrossingPlan
from dougong.parallel.dispatch.spec import Sizes
from dougong.parallel.schedules.operation import CallKey
from dougong.parallel.segments.flight import ExpertsCall


@dataclass
class DispatchHandle:
    """An experts call of all local lanes, on the attention side, by lane.

    `sizes`: of what all lanes together send each experts worker. `outputs`: one for each row, where
    this side combines them (`at_attention`). `combined`: what the model goes on with; `douts` and
    `drows`: the gradients of both, in the backward.
    """

    key: CallKey
    calls: Mapping[int, ExpertsCall]
    crossings: Mapping[int, CrossingPlan]
    sizes: Sizes
    outputs: dict[int, Tensor] = field(default_factory=dict)
    combined: dict[int, Tensor] = field(default_factory=dict)
    douts: Mapping[int, Tensor] = field(default_factory=dict)
    drows: dict[int, Tensor] = field(default_factory=dict)
    dweights: dict[int, Tensor] = field(default_factory=dict)

    @property
    def routings(self) -> dict[int, Routing]:
        return {lane: crossing.routing for lane, crossing in self.crossings.items()}


@dataclass
class ExpertBatch:
    """An experts call on the experts side: all lanes' rows [R, H] for this worker's experts.

    `sizes`: of what each attention worker sent. `weights` [R] of the rows, where this side combines
    (`at_experts`). What comes of the rows is filled in, in the order of its life: `outputs`,
    `doutputs` (their gradients), `drows` and `dweights`.
    """

    key: CallKey
    sizes: Sizes
    arrived: Routing
    blocks: tuple[Block, ...]
    rows: Tensor
    weights: Tensor | None
    outputs: Tensor = field(init=False)
    doutputs: Tensor = field(init=False)
    drows: Tensor = field(init=False)
    dweights: Tensor | None = None
