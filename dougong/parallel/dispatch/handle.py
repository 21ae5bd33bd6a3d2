"""What each side keeps of one experts call, from its dispatch to the gradients of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dougong.ops.experts.base import Block
from dougong.ops.permute import Routing, products_of_rows, weigh_rows
from dougong.parallel.dispatch.crossing import CrossingPlan
from dougong.parallel.dispatch.spec import Sizes
from dougong.parallel.schedules.operation import CallKey
from dougong.parallel.segments.flight import ExpertsCall


@dataclass
class DispatchHandle:
    """An experts call of all local lanes, on the attention side, by lane.

    `sizes`: of what all lanes together send each experts worker. `combined`: what the model goes on
    with, until it does; `outputs`: one for each row, for who watches them until then (where this
    side combines them, `at_attention`). `douts` and `drows`: the gradients of both, in the
    backward.
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
    (`at_experts`), else with the gradients. What comes of the rows [R, H] is here while it is on
    its way: `rows` until they are computed, `outputs` until they are sent, `douts` (of each row's
    token) and `drows` in the backward, with `dweights` [R]. What the backward needs of the forward
    is in the shard.
    """

    key: CallKey
    sizes: Sizes
    arrived: Routing
    blocks: tuple[Block, ...]
    rows: Tensor
    weights: Tensor | None
    outputs: Tensor = field(init=False)
    douts: Tensor = field(init=False)
    drows: Tensor = field(init=False)
    dweights: Tensor = field(init=False)

    @property
    def num_rows(self) -> int:
        """R."""
        return self.arrived.num_rows

    def weigh_gradients(self) -> Tensor:
        """The gradients [R, H] of the rows' outputs, once those of the tokens have come."""
        assert self.weights is not None, "they come with the gradients at the latest"
        return weigh_rows(self.douts, self.weights)

    def end_backward(self, drows_RH: Tensor, outputs_RH: Tensor) -> None:
        """The rows' gradients are here; those of their weights follow from the forward's
        outputs."""
        self.drows, self.dweights = drows_RH, products_of_rows(self.douts, outputs_RH)
        del self.douts
