"""The plan as a pure function: shares, order, balance, errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import PlanError
from dougong.parallel.assign import Speed
from dougong.parallel.island_paths import IslandPath
from dougong.parallel.plan import Inventory, Plan, Seat, TensorSpec, Worker, make_plan, read_experts
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

ROLES = {"A": "attention", "E": "experts", "B": "both"}


def seats(letters: str) -> list[Seat]:
    return [Seat(f"east/{i}", "east", ROLES[r], "node", f"cpu:{i}") for i, r in enumerate(letters)]


def inventory(num_experts: int = 8, sizes: tuple[int, ...] = (64, 8, 8, 4)) -> Inventory:
    tensors = tuple(TensorSpec(f"t{i}", (size, 2), True) for i, size in enumerate(sizes))
    return Inventory("tiny", tensors, ("a.experts", "b.experts"), num_experts, (("down_proj", (3, 5)),))


@st.composite
def layouts(draw: Any) -> tuple[int, Inventory, str]:
    letters = draw(st.text("AEB", min_size=1, max_size=6).filter(lambda t: set(t) & set("AB") and set(t) & set("EB")))
    attention, experts = (sum(r in kind for r in letters) for kind in ("AB", "EB"))
    sizes = tuple(draw(st.lists(st.integers(1, 100), min_size=1, max_size=12)))
    lanes, num_experts = draw(st.integers(attention, 12)), draw(st.integers(experts, 20))
    return lanes, inventory(num_experts, sizes), letters


@given(layouts())
@settings(max_examples=200, deadline=None)
def test_everything_has_one_place_and_shares_are_even(layout: tuple[int, Inventory, str]) -> None:
    lanes, model, letters = layout
    plan = make_plan(lanes, model, seats(letters))
    assert [w.rank for w in plan.workers] == list(range(len(letters)))
    assert [w.name for w in plan.workers] == [f"east/{i}" for i in range(len(letters))]
    for shares, count, roles in (
        ([w.lanes for w in plan.workers], lanes, "AB"),
        ([w.experts[0] for w in plan.workers], model.num_experts, "EB"),
        ([w.experts[1] for w in plan.workers], model.num_experts, "EB"),
    ):
        given_to = [share for share, role in zip(shares, letters, strict=True) if role in roles]
        assert [i for share in given_to for i in share] == list(range(count)), "contiguous, in order of rank"
        assert max(map(len, given_to)) - min(map(len, given_to)) <= 1 and min(map(len, given_to)) >= 1
        assert sum(map(len, shares)) == count, "no share for a worker without the role"
    held = [w.num_experts for w in plan.workers if w.num_experts]
    assert max(held) - min(held) <= 1, "a remainder goes to another worker at the next site"


@given(layouts())
@settings(max_examples=100, deadline=None)
def test_dense_tensors_are_owned_by_attention_workers_in_balance(layout: tuple[int, Inventory, str]) -> None:
    lanes, model, letters = layout
    plan = make_plan(lanes, model, seats(letters))
    load = {rank: 0 for rank, role in enumerate(letters) if role in "AB"}
    assert plan.owners.keys() == {t.name for t in model.tensors}
    for tensor in model.tensors:
        load[plan.owners[tensor.name]] += tensor.shape[0] * 2
    assert max(load.values()) - min(load.values()) <= max(t.shape[0] * 2 for t in model.tensors)


@given(layouts())
@settings(max_examples=50, deadline=None)
def test_a_plan_survives_its_file_and_does_not_depend_on_the_order_of_tensors(
    layout: tuple[int, Inventory, str],
) -> None:
    lanes, model, letters = layout
    plan = make_plan(lanes, model, seats(letters))
    assert Plan.from_json(plan.to_json()) == plan
    backwards = dataclasses.replace(model, tensors=model.tensors[::-1])
    assert make_plan(lanes, backwards, seats(letters)).to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("lanes", "experts", "letters", "message"),
    [
        (4, 8, "EE", "no attention worker: give one island `role: attention` or `role: both`"),
        (4, 8, "A", "no experts worker: give one island `role: experts` or `role: both`"),
        (4, 8, "", "no attention worker"),
        (2, 8, "BBA", "3 attention workers but batch.lanes is 2: each needs a lane; raise batch.lanes"),
        (
            2,
            2,
            "BEE",
            r"3 experts workers but the model has 2 experts, and each needs one of every layer; lower "
            r"islands\.\*\.workers of roles experts and both by 1 together, or give workers role attention",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused_with_the_knob(lanes: int, experts: int, letters: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_plan(lanes, inventory(experts), seats(letters))


def test_a_plans_file_is_what_python_would_write() -> None:
    plan = make_plan(6, inventory(), seats("AAE"), (2, 0))
    named = dataclasses.replace(plan.workers[0], island='\u6771 "east"\n', name="\U0001f600")
    plan = dataclasses.replace(plan, workers=(named, *plan.workers[1:]), paths=(IslandPath("a", "b", "bridge", "x"),))
    assert plan.to_json() == json.dumps(dataclasses.asdict(plan), indent=1)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5))
def test_the_least_loaded_worker_owns_the_next_largest_tensor(sizes: list[int], workers: int) -> None:
    model = inventory(sizes=tuple(sizes))
    load, owners = [0] * workers, {}
    for tensor in sorted(model.tensors, key=lambda t: (-t.num_parameters, t.name)):
        owners[tensor.name] = load.index(min(load))
        load[owners[tensor.name]] += tensor.num_parameters
    assert make_plan(workers, model, seats("B" * workers)).owners == owners


def test_workers_are_found_by_name() -> None:
    plan = make_plan(2, inventory(), seats("BB"))
    assert plan.worker("east/1") is plan.workers[1]
    with pytest.raises(PlanError, match="no worker named 'east/2'; this plan has east/0, east/1"):
        plan.worker("east/2")


def test_parameters_are_counted_experts_included() -> None:
    assert inventory(num_experts=8, sizes=(10, 1)).num_parameters == 22 + 2 * 8 * 15


def test_shares_follow_speed_and_offload_site_by_site() -> None:
    slow, fast = Speed(attention=1.0, experts=3.0), Speed(attention=3.0, experts=1.0)
    places = [dataclasses.replace(s, speed=fast if s.role == "attention" else slow) for s in seats("AAE")]
    places[0] = dataclasses.replace(places[0], speed=Speed(attention=1.0, experts=1.0))
    plan = make_plan(8, inventory(), places, offload=(0, 3))
    assert [w.lanes for w in plan.workers] == [(0, 1), (2, 3, 4, 5, 6, 7), ()]
    assert [w.experts for w in plan.workers] == [((), (0, 1)), ((), (2,)), (tuple(range(8)), (3, 4, 5, 6, 7))]


def test_the_slowest_experts_worker_still_has_one_expert_of_every_site() -> None:
    places = [dataclasses.replace(s, speed=Speed(experts=e)) for s, e in zip(seats("BE"), (100.0, 1.0), strict=True)]
    assert [[len(own) for own in w.experts] for w in make_plan(2, inventory(), places).workers] == [[7, 7], [1, 1]]


@pytest.mark.parametrize(("letters", "kept", "most"), [("AEE", 7, 6), ("AE", -1, 7), ("BB", 1, 0)])
def test_more_offload_than_experts_is_refused_with_the_numbers(letters: str, kept: int, most: int) -> None:
    with pytest.raises(PlanError, match=f"offload: {kept} experts .* of 8 experts .*; it can be 0 to {most}"):
        make_plan(4, inventory(), seats(letters), (0, kept))


def test_an_expert_without_an_owner_or_with_two_is_refused() -> None:
    worker = Worker("east/0", 0, "east", "both", "here", "cpu", (0,), ((0, 1), (0,)))
    with pytest.raises(PlanError, match=r"site 1: its workers own experts \[0\], but each of 0 to 1 needs one owner"):
        Plan(1, 2, (worker,), {})
    other = dataclasses.replace(worker, rank=1, experts=((1,), (1,)))
    with pytest.raises(PlanError, match=r"site 0: its workers own experts \[0, 1, 1\]"):
        Plan(1, 2, (worker, other), {})


@pytest.mark.parametrize(
    ("text", "experts"),
    [
        ("0-3 x58", ((0, 1, 2, 3),) * 58),
        ("0-1 x2 | none | 5", ((0, 1), (0, 1), (), (5,))),
        ("none x3 | 98-101", ((), (), (), (98, 99, 100, 101))),
        ("", ()),
    ],
)
def test_experts_as_text_of_older_files_are_read(text: str, experts: tuple[tuple[int, ...], ...]) -> None:
    assert read_experts(text) == experts


def test_a_plan_is_lists_in_json() -> None:
    plan = make_plan(4, inventory(), seats("AEE"), (2, 0))
    raw = json.loads(plan.to_json())
    assert raw["workers"][0]["lanes"] == [0, 1, 2, 3] and raw["workers"][0]["experts"] == [[0, 1], []]
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_whose_experts_are_text_is_still_read() -> None:
    """Recorded before experts became lists."""
    plan = Plan.from_json((Path(__file__).parent / "recorded" / "plan-with-text.json").read_text())
    assert [w.experts for w in plan.workers] == [
        ((0,), (), (0,)),
        ((1,), (), ()),
        ((2, 3, 4), (0, 1, 2, 3), (1, 2, 3, 4)),
        ((5, 6, 7), (4, 5, 6, 7), (5, 6, 7)),
    ]
    assert [w.lanes for w in plan.workers] == [(0, 1, 2, 3), (4, 5), (), ()]
    assert plan.owners == {"embed": 0, "norm": 1}
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("lanes", "experts", "role"),
    [((0,), (), "attention"), ((), ((0,),), "experts"), ((0,), ((), (1,)), "both"), ((0,), ((), ()), "attention")],
)
def test_a_workers_role_in_a_step_is_what_it_has(lanes: Any, experts: Any, role: str) -> None:
    """Also of an attention worker that keeps experts."""
    assert Worker("east/0", 0, "east", "attention", "here", "cpu", lanes, experts).role_in_step == role


def test_planning_needs_no_torch() -> None:
    code = "import sys, dougong.parallel.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def planned_with(place: tuple[str | int, ...], value: Any) -> str:
    """A sound plan's file but for one value, which is left out for `...`."""
    raw = json.loads(make_plan(4, inventory(), seats("AE")).to_json())
    *parents, last = place
    inner = raw
    for part in parents:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (("owners",), ..., ValidationError, r"(?s)owners\n.*required"),
        (("colour",), "red", ValidationError, "(?s)colour\n.*unexpected"),
        (("workers", 0, "colour"), "red", ValidationError, r"(?s)workers\.0\.colour\n.*unexpected"),
        (("workers", 0, "role"), "cook", ValidationError, r"(?s)workers\.0\.role\n.*'attention', 'experts' or 'both'"),
        (("workers", 0, "rank"), "0", ValidationError, r"(?s)workers\.0\.rank\n.*valid integer"),
        (("workers", 0, "lanes"), 4, ValidationError, r"(?s)workers\.0\.lanes\n.*valid array"),
        (("workers", 0, "experts"), [[0.5], []], ValidationError, r"(?s)workers\.0\.experts\.0\.0\n.*valid integer"),
        (("workers", 0, "experts"), "0-1 y2", ValidationError, "'0-1 y2' is not written as in `0-3 x2 | none | 4`"),
        (("workers", 0, "experts"), [[]], PlanError, "east/0: has experts of 1 sites, but the model has 2"),
        (("workers", 0, "lanes"), [0, 1, 2], PlanError, r"have lanes \[0, 1, 2\], but each of 0 to 3 needs one worker"),
        (("workers", 0, "rank"), 7, PlanError, "east/0: has rank 7, but stands at place 0"),
        (("owners", "t0"), 2, PlanError, r"owners\.t0: is rank 2, but the plan has 2 workers"),
    ],
)
def test_what_is_no_plan_is_refused_at_its_place(
    place: tuple[str | int, ...], value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Plan.from_json(planned_with(place, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "7", "null"])
def test_what_is_no_object_of_a_plan_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Plan.from_json(text)


@pytest.mark.parametrize("text", ["0-1 y2", "none x", "x2", "0-", "0,1", "0-1|2", " "])
def test_experts_that_are_not_so_written_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not written as in `0-3 x2"):
        read_experts(text)
