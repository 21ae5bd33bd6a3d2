"""Words that the tests of the schedules share."""

from __future__ import annotations

from typing import Any

from dougong.parallel.plan import Role
from dougong.parallel.schedules.operation import Kind, Operation, Program, backward, forward
from dougong.parallel.schedules.order import lay_out
from hypothesis import strategies as st

SPLIT: dict[str, Role] = {"a": "attention", "e": "experts"}
TEAMS: dict[str, dict[str, Role]] = {
    "1:1": SPLIT,
    "3:2": {"a0": "attention", "a1": "attention", "a2": "attention", "e0": "experts", "e1": "experts"},
    "both": {"b0": "both", "b1": "both", "b2": "both"},
    "alone": {"b": "both"},
    "mixed": {"a": "attention", "b": "both", "e": "experts"},
}


def order_of(programs: list[Program], role: Role) -> list[str]:
    """What the first worker of a role computes, in the papers' notation: F(0,1), B(2,0)."""
    program = next(program for program in programs if program.role == role)
    computed = [o for o in program.operations if o.kind.computes and o.kind is not Kind.WEIGHT_GRADIENTS]
    return [f"{'B' if 'backward' in o.kind.words else 'F'}({o.site},{o.microbatch})" for o in computed]


def with_operations(program: Program, operations: list[Operation]) -> Program:
    return Program(program.worker, program.role, tuple(operations))


@st.composite
def any_programs(draw: Any) -> tuple[list[Program], int, int]:
    """Programs laid out from any legal order of segments, the number of sites, and of micro-batches.

    `up`, `turning` and `down` are queues of what can run next; new forwards may come in at any time.
    """
    num_sites, num_microbatches = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    new = [forward(0, j) for j in range(num_microbatches)]
    up, turning, down = list[Operation](), list[Operation](), list[Operation]()
    order: list[Operation] = []
    while any(queues := [queue for queue in (new, up, turning, down) if queue]):
        order.append(draw(st.sampled_from(queues)).pop(0))
        site, microbatch = order[-1].site, order[-1].microbatch
        if order[-1].kind is Kind.BACKWARD:
            down += [backward(site - 1, microbatch)] if site else []
        elif site < num_sites:
            up.append(forward(site + 1, microbatch))
        else:
            turning.append(backward(site, microbatch))
    team = TEAMS[draw(st.sampled_from(sorted(TEAMS)))]
    programs = [Program(w, role, tuple(lay_out(order, num_sites, role))) for w, role in team.items()]
    return programs, num_sites, num_microbatches
