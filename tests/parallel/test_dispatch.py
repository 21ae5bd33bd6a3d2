"""Rows to their experts and back, over any roles and routings, in real processes; messages out of step are refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dougong.errors import LaunchError
from dougong.ops.routing import Routing, dispatch_rows, make_routing
from dougong.parallel.dispatch import Dispatcher, Handle
from dougong.parallel.plan import Plan
from dougong.parallel.transport import World
from tests.parallel.workers import plan_of
from tests.processes import run_workers

EXPERTS, LANES, HIDDEN, TOKENS = 8, 6, 3, 5
KEY = (0, 0)

ROUTINGS = ("random", "one expert gets all", "one choice", "half have no expert", "none has an expert", "identity")


def index_of(kind: str, lane: int, num_experts: int = EXPERTS) -> Tensor:
    """One lane's choices [T, K]; T differs from lane to lane."""
    generator = torch.Generator().manual_seed(lane)
    tokens = TOKENS + lane
    if kind == "one expert gets all":
        return torch.full((tokens, 2), num_experts - 2)
    if kind == "one choice":
        return torch.randint(num_experts, (tokens, 1), generator=generator)
    if kind == "half have no expert":
        index_TK = torch.randint(num_experts, (tokens, 2), generator=generator)
        return torch.where(torch.rand(tokens, 2, generator=generator) < 0.5, index_TK, -1)
    if kind == "none has an expert":
        return torch.full((tokens, 2), -1)
    highest = num_experts + 4 if kind == "identity" else num_experts
    return torch.randint(highest, (tokens, 3), generator=generator)


def hidden_of(lane: int) -> Tensor:
    return torch.randn(TOKENS + lane, HIDDEN, generator=torch.Generator().manual_seed(1000 + lane))


def by_expert(routing: Routing, num_experts: int = EXPERTS) -> Tensor:
    """The expert of each row."""
    return torch.repeat_interleave(torch.arange(num_experts), routing.counts_E)


def make_dispatcher(world: World, plan: Plan) -> Dispatcher:
    return Dispatcher(world, plan, HIDDEN, torch.float32, torch.device("cpu"))


def go_and_return(dispatcher: Dispatcher, handle: Handle, rows: Mapping[int, Tensor], own: tuple[int, ...]) -> dict:
    """Expert e answers x * (e + 1) + lane / 8; also says what arrived, to be checked by the caller."""
    arrived = dispatcher.to_experts(handle, rows)
    blocks = handle.blocks
    assert [(b.lane, b.expert) for b in blocks] == sorted({(b.lane, b.expert) for b in blocks}), "lanes in order"
    assert [b.start for b in blocks] == [sum(b.count for b in blocks[:i]) for i in range(len(blocks))]
    assert sum(b.count for b in blocks) == len(arrived) and {b.expert for b in blocks} <= set(own)
    answers = torch.full_like(arrived, float("nan"))
    for block in blocks:
        answers[block.span] = arrived[block.span] * (block.expert + 1) + block.lane / 8
    return dispatcher.to_attention(handle, answers)


def round_trips(world: World, plan: Plan, kind: str, absent: frozenset[int] = frozenset()) -> list[bool]:
    """Forward, then backward with the forward's handle; whether every local lane got its own answers back."""
    worker = plan.workers[world.rank]
    dispatcher = make_dispatcher(world, plan)
    routings = {
        lane: make_routing(index_of(kind, lane, plan.num_experts), plan.num_experts)
        for lane in worker.lanes
        if lane not in absent
    }
    handle = dispatcher.announce(KEY, routings)
    right = []
    for turn in range(2):
        rows = {lane: dispatch_rows(hidden_of(lane) + turn, routing) for lane, routing in routings.items()}
        answers = go_and_return(dispatcher, handle, rows, worker.experts[0])
        assert answers.keys() == set(worker.lanes)
        assert all(not len(answers[lane]) for lane in absent & answers.keys())
        for lane, routing in routings.items():
            factors = by_expert(routing, plan.num_experts) + 1
            right.append(torch.equal(answers[lane], rows[lane] * factors[:, None] + lane / 8))
    return right


LAYOUTS = ("BBBB", "AEEE", "AAAE", "ABEE", "EABB", "AEAE")


def every_layout(world: World, plan: Plan) -> dict[tuple[str, str], list[bool]]:
    """All layouts of four workers and all routings in one set of processes."""
    cases = itertools.product(LAYOUTS, ROUTINGS)
    results = {(roles, kind): round_trips(world, plan_of(roles, LANES, EXPERTS), kind) for roles, kind in cases}
    results["AEAE", "absent lanes"] = round_trips(world, plan_of("AEAE", LANES), "random", frozenset({1, 3, 4, 5}))
    return results


def test_answers_come_home_on_every_layout_of_four_workers_and_every_routing() -> None:
    results = run_workers(every_layout, plan_of("BBBB"))
    for roles, kind in results[0]:
        counts = [len(r[roles, kind]) for r in results]
        assert all(all(r[roles, kind]) for r in results), (roles, kind)
        assert sum(counts) == 2 * (2 if kind == "absent lanes" else LANES), (roles, kind)


@given(st.integers(1, 12), st.integers(0, 3), st.sampled_from(ROUTINGS))
@settings(max_examples=40, deadline=None)
def test_a_world_of_one_needs_no_messages(num_experts: int, num_absent: int, kind: str) -> None:
    world = World.alone()
    plan = plan_of("B", LANES, num_experts)
    if num_experts < 2 and kind == "one expert gets all":
        num_experts = 2
        plan = plan_of("B", LANES, num_experts)
    assert all(round_trips(world, plan, kind, frozenset(range(num_absent))))
    assert world.bytes_sent == 0


def out_of_step(world: World, plan: Plan, difference: str) -> str | None:
    """Rank 1 believes to be elsewhere: what each worker says."""
    dispatcher = make_dispatcher(world, plan)
    dispatcher.step = 8 if difference == "step" and world.rank == 1 else 7
    site = 2 if difference == "site" and world.rank == 1 else 1
    microbatch = 4 if difference == "microbatch" and world.rank == 1 else 3
    routings = {lane: make_routing(index_of("random", lane), EXPERTS) for lane in plan.workers[world.rank].lanes}
    try:
        dispatcher.announce((site, microbatch), routings)
    except LaunchError as error:
        return str(error)
    return None


def all_out_of_step(world: World, plan: Plan) -> dict[str, str | None]:
    return {d: out_of_step(world, plan, d) for d in ("none", "step", "site", "microbatch")}


def test_a_message_from_another_place_in_the_step_is_refused_by_name() -> None:
    results = run_workers(all_out_of_step, plan_of("BBE"))
    assert [r["none"] for r in results] == [None] * 3
    for word, there, here in (("step", 8, 7), ("site", 2, 1), ("microbatch", 4, 3)):
        for rank in (0, 2):
            said = results[rank][word]
            assert said is not None and f"worker 1 sent a message that worker {rank} does not wait for" in said
            assert f": {word} {there} against {here}; " in said, "and nothing else is named"
        theirs = results[1][word]
        assert (
            theirs is not None and f"worker 0 sent a message that worker 1 does not wait for: {word} {here}" in theirs
        )


def test_a_plan_whose_experts_do_not_ascend_is_our_mistake() -> None:
    plan = plan_of("BB")
    swapped = Plan(plan.num_lanes, plan.num_experts, (plan.workers[1], plan.workers[0]), plan.owners)
    with pytest.raises(AssertionError, match="ascending order of rank"):
        make_dispatcher(World.alone(), swapped)
