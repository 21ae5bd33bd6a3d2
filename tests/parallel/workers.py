"""Plans without a model, for tests that move tensors between real workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dougong.ops.experts.base import Block
from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, make_plan

ROLES = {"A": "attention", "E": "experts", "B": "both"}


def plan_of(
    roles: str, num_lanes: int = 6, num_experts: int = 8, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Plan:
    """A plan with one worker per letter: A attention, E experts, B both."""
    tensors = tuple(TensorSpec(name, shape, True) for name, shape in (shapes or {"t": (2,)}).items())
    inventory = Inventory("tiny", tensors, ("a.experts", "b.experts", "c.experts"), num_experts, ())
    seats = [Seat(f"east/{i}", "east", ROLES[r], "node", f"cpu:{i}") for i, r in enumerate(roles)]
    return make_plan(num_lanes, inventory, seats)


def with_lanes(plan: Plan, lanes: Sequence[Sequence[int]]) -> Plan:
    """The same plan with other lanes, also such as `make_plan` would never give."""
    workers = tuple(dataclasses.replace(w, lanes=tuple(own)) for w, own in zip(plan.workers, lanes, strict=True))
    return dataclasses.replace(plan, num_lanes=sum(map(len, lanes)), workers=workers)


def blocks_of(experts: Sequence[int], counts: Mapping[int, Sequence[int]]) -> list[Block]:
    """A wave's blocks from rows per expert, by lane."""
    blocks, start = [], 0
    for lane, of_lane in counts.items():
        for expert, count in zip(experts, of_lane, strict=True):
            blocks += [Block(expert, lane, start, count)] if count else []
            start += count
    return blocks
