"""Where agents go, and which seats they make."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from dougong.control.handshake import AgentFacts
from dougong.errors import NoRoomError, PlanError
from dougong.job.schema import Island
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec, devices_held, devices_of, lay_out, make_seats, seats_of_job
from hypothesis import given
from hypothesis import strategies as st

A = Node("aaaaaaaaaaaa", "alpha", "10.0.0.1", {"cuda": 4}, {"rack": "r1"}, cpus=4)
B = Node("bbbbbbbbbbbb", "beta", "10.0.0.2", {"cuda": 2, "npu": 8}, cpus=4)
C = Node("cccccccccccc", "gamma", "10.0.0.3", cpus=2)


def island(name: str, accelerator: Any = "cuda", workers: int = 2, **more: Any) -> Island:
    return Island(name=name, accelerator=accelerator, workers=workers, **more)


def places(specs: Sequence[AgentSpec]) -> list[tuple[str, str | None, int, int, int]]:
    return [(s.name, s.node, s.first_index, s.num_workers, s.first_device) for s in specs]


def counts(specs: Sequence[AgentSpec]) -> list[tuple[str, int]]:
    """Agent, and how many workers on which node."""
    names = {node.id: node.name for node in (A, B, C)}
    return [(f"{s.name} {names[str(s.node)]}", s.num_workers) for s in specs]


# Devices that are used together


def test_workers_of_an_island_that_shares_a_device_are_on_one_together() -> None:
    east, west = island("east", devices="shared", workers=3), island("west", devices="shared", role="experts")
    own = island("own", workers=3)
    specs = lay_out([east, west, own], [A, C])
    by_name = {spec.name: spec for spec in specs}
    assert devices_of(by_name["own"]) == {"own/0": "cuda:1", "own/1": "cuda:2", "own/2": "cuda:3"}
    assert devices_of(by_name["east"]) == {f"east/{i}": "cuda:0" for i in range(3)}
    assert devices_of(by_name["west"]) == {f"west/{i}": "cuda:0" for i in range(2)}
    assert devices_held(by_name["east"]) == ("cuda:0",)
    agents = {name: AgentFacts(name, name, "alpha", 1, "cuda", 4, {}, {}) for name in by_name}
    assert [seat.device for seat in make_seats(specs, agents)][:3] == ["cuda:0"] * 3


def test_one_device_is_enough_for_both_and_the_next_island_is_refused() -> None:
    one = replace(A, devices={"cuda": 1})
    east, west = island("east", devices="shared"), island("west", devices="shared")
    assert [spec.first_device for spec in lay_out([east, west], [one, C])] == [0, 0]
    with pytest.raises(NoRoomError, match="island own asks for 1 cuda worker, one device each, but none is free"):
        lay_out([east, west, island("own", workers=1)], [one, C])
    with pytest.raises(NoRoomError, match="island east asks for 2 cuda workers, on one device together, but none"):
        lay_out([east], [replace(one, free={"cuda": 0})])


def test_a_lost_agent_comes_back_to_the_device_that_the_other_one_uses() -> None:
    east, west = island("east", devices="shared"), island("west", devices="shared")
    for shared in (True, False):  # the machine's own numbers, or those that Ray shows an agent
        (kept, lost) = lay_out([east, west], [A, B], shared)
        found = lay_out([east, west], [replace(A, free={"cuda": 3 if shared else 0}), B], shared, [kept])
        assert found == (kept, lost)


# Processors


def test_islands_of_processors_go_to_different_nodes() -> None:
    islands = [island("north", "cpu", 1), island("east", "cpu", 2), island("west", "cpu", 2)]
    assert counts(lay_out(islands, [C, B, A])) == [("north alpha", 1), ("east alpha", 2), ("west beta", 2)]
    busy = [replace(A, free_cpus=3.99), B]  # an agent of another run holds a hundredth of a processor
    assert counts(lay_out([island("east", "cpu", 4)], busy)) == [("east beta", 4)]
    assert counts(lay_out([island("east", "cpu", 4), island("west", "cpu", 4)], busy)) == [
        ("east beta", 4), ("west alpha", 4),
    ]  # fmt: skip


def test_an_island_that_fits_no_node_spans_the_fewest_in_proportion() -> None:
    assert counts(lay_out([island("east", "cpu", 8)], [C, A, B])) == [("east-0 alpha", 4), ("east-4 beta", 4)]
    assert counts(lay_out([island("east", "cpu", 6)], [A, replace(B, cpus=2)])) == [
        ("east-0 alpha", 4), ("east-4 beta", 2),
    ]  # fmt: skip
    assert counts(lay_out([island("east", "cpu", 3)], [C, replace(A, cpus=1)])) == [
        ("east-0 gamma", 2), ("east-2 alpha", 1),
    ]  # fmt: skip
    assert counts(lay_out([island("east", "cpu", 3, threads=2)], [A, B, C])) == [
        ("east-0 alpha", 2), ("east-2 beta", 1),
    ]  # fmt: skip


def test_more_workers_than_processors_load_all_nodes_evenly() -> None:
    assert counts(lay_out([island("east", "cpu", 20)], [A, B, C])) == [
        ("east-0 alpha", 8), ("east-8 beta", 8), ("east-16 gamma", 4),
    ]  # fmt: skip
    # A node that offers no processor (`ray start --num-cpus=0`) is for those alone who name it.
    head = replace(A, cpus=0)
    assert counts(lay_out([island("east", "cpu", 3)], [head, C])) == [("east gamma", 3)]
    assert counts(lay_out([island("east", "cpu", 3, node="alpha")], [head, C])) == [("east alpha", 3)]
    assert counts(lay_out([island("east", "cpu", 3)], [head])) == [("east alpha", 3)]


def test_an_island_that_is_called_as_a_part_of_another_is_refused() -> None:
    with pytest.raises(PlanError, match="islands east and east-4: both would have an agent east-4; give one of them"):
        lay_out([island("east", "cpu", 8), island("east-4", "cpu", 1)], [A, B])


# Devices


def test_an_island_of_devices_takes_the_fullest_node_then_the_next() -> None:
    assert places(lay_out([island("gpu", workers=5)], [B, A])) == [("gpu-0", A.id, 0, 4, 0), ("gpu-4", B.id, 4, 1, 0)]


def test_islands_of_devices_go_to_different_nodes_where_these_are_equally_free() -> None:
    other = replace(A, id="other", name="beta")
    assert counts(lay_out([island("one"), island("two")], [replace(B, devices={"cuda": 4}), A])) == [
        ("one alpha", 2), ("two beta", 2),
    ]  # fmt: skip
    held = replace(A, free={"cuda": 1})  # another job has three
    assert [spec.node for spec in lay_out([island("one")], [held, other])] == ["other"]


def test_two_islands_share_a_node_without_sharing_a_device() -> None:
    specs = lay_out([island("one", workers=2), island("two", workers=2, node="alpha")], [A])
    assert places(specs) == [("one", A.id, 0, 2, 0), ("two", A.id, 0, 2, 2)]
    hellos = {s.name: hello("alpha") for s in specs}
    assert [(s.name, s.device) for s in make_seats(specs, hellos)] == [
        ("one/0", "cuda:0"), ("one/1", "cuda:1"), ("two/0", "cuda:2"), ("two/1", "cuda:3"),
    ]  # fmt: skip


def test_agents_that_see_only_their_own_devices_begin_with_the_first() -> None:
    specs = lay_out([island("one", workers=3), island("two", workers=3)], [A, B], shared=False)
    assert places(specs) == [
        ("one", A.id, 0, 3, 0), ("two-0", B.id, 0, 2, 0), ("two-2", A.id, 2, 1, 0),
    ]  # fmt: skip


def test_a_pin_comes_before_an_island_that_may_go_anywhere() -> None:
    islands = [island("any", workers=2), island("pinned", workers=4, node="alpha")]
    assert counts(lay_out(islands, [A, B])) == [("any beta", 2), ("pinned alpha", 4)]
    racks = [replace(A, labels={"rack": "r1"}), replace(B, labels={"rack": "r1"}, devices={"cuda": 4})]
    both = island("both", workers=6, node="rack=r1")
    assert counts(lay_out([both], racks)) == [("both-0 alpha", 4), ("both-4 beta", 2)]
    # The node that another pin needs is left to it.
    islands = [island("both", workers=4, node="rack=r1"), island("alpha", workers=4, node="alpha")]
    assert counts(lay_out(islands, racks)) == [("both beta", 4), ("alpha alpha", 4)]


@pytest.mark.parametrize(("node", "workers", "free"), [(None, 7, 6), ("beta", 3, 2)])
def test_more_workers_than_devices_are_refused_with_the_numbers(node: str | None, workers: int, free: int) -> None:
    text = rf"asks for {workers} cuda workers.* only {free} devices .*beta \(10\.0\.0\.2\) has 2 cuda\)"
    with pytest.raises(NoRoomError, match=text) as caught:
        lay_out([island("gpu", workers=workers, node=node)], [A, B])
    assert not caught.value.is_held


def test_devices_that_others_hold_are_told_from_those_that_are_not_there() -> None:
    held = replace(A, free={"cuda": 1}, holders=("job other (3 cuda)",))
    with pytest.raises(NoRoomError) as caught:
        lay_out([island("gpu", workers=4)], [held])
    assert str(caught.value) == (
        "island gpu asks for 4 cuda workers, one device each, but only 1 device is free (alpha (10.0.0.1) has 4 cuda, "
        "1 free, held by job other (3 cuda)); free what others hold (`ray status`), or lower islands.gpu.workers"
    )
    assert caught.value.is_held
    with pytest.raises(NoRoomError) as caught:
        lay_out([island("gpu", workers=5)], [held])
    assert not caught.value.is_held


def test_no_device_and_one_device_are_told_in_their_number() -> None:
    with pytest.raises(NoRoomError, match="asks for 1 cuda worker, one device each, but none is free"):
        lay_out([island("all", workers=2), island("one", workers=1)], [B])
    with pytest.raises(NoRoomError, match="asks for 2 cuda workers, one device each, but only 1 device is free"):
        lay_out([island("most", workers=2), island("rest", workers=2)], [replace(B, devices={"cuda": 3})])


# Agents that stay


def test_the_workers_of_lost_agents_are_laid_out_anew_and_the_others_stay() -> None:
    islands = [island("east", workers=5), island("west", "cpu", 2)]
    before = lay_out(islands, [A, B], shared=False)
    assert places(before) == [("east-0", A.id, 0, 4, 0), ("east-4", B.id, 4, 1, 0), ("west", B.id, 0, 2, 0)]
    kept = before[:1]
    spare = replace(C, devices={"cuda": 4}, cpus=4)
    # Beta is gone. Of alpha nothing is free: the one that stays holds all.
    specs = lay_out(islands, [replace(A, free={"cuda": 0}), spare], shared=False, kept=kept)
    assert places(specs) == [*places(kept), ("east-4", C.id, 4, 1, 0), ("west", C.id, 0, 2, 0)]
    # A node that is not listed any more is no reason to move one that lives there.
    assert places(lay_out(islands, [spare], shared=False, kept=kept)) == places(specs)
    assert lay_out(islands, [], kept=before) == before


def test_gaps_between_those_that_stay_become_agents_of_their_own() -> None:
    gpus = replace(A, devices={"cuda": 6})
    kept = [AgentSpec("east-2", "east", "both", "cuda", 1, 2, 2, 2, A.id)]
    specs = lay_out([island("east", workers=6)], [gpus], kept=kept)
    assert places(specs) == [("east-0", A.id, 0, 2, 0), *places(kept), ("east-4", A.id, 4, 2, 4)]


# Whatever the cluster

KINDS = ("cuda", "cpu")


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Node], list[Island], bool]:
    nodes = []
    for number in range(draw(st.integers(1, 4))):
        devices, cpus = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        free = draw(st.integers(0, devices))
        label = {"rack": draw(st.sampled_from(["left", "right"]))}
        made = Node(f"{number}" * 10, f"n{number}", f"10.0.0.{number}", {"cuda": devices}, label, free={"cuda": free})
        nodes.append(replace(made, cpus=cpus))
    islands = []
    for number in range(draw(st.integers(1, 3))):
        kind, pin = draw(st.sampled_from(KINDS)), draw(st.sampled_from([None, "n0", "rack=left"]))
        islands.append(island(f"i{number}", kind, draw(st.integers(1, 5)), node=pin, threads=draw(st.integers(1, 2))))
    return nodes, islands, draw(st.booleans())


def tried(islands: list[Island], nodes: list[Node], shared: bool, kept: Sequence[AgentSpec] = ()) -> Any:
    try:
        return lay_out(islands, nodes, shared, kept)
    except NoRoomError as error:
        return str(error)


@given(clusters(), st.randoms(use_true_random=False))
def test_every_worker_has_one_place_where_it_may_be_and_no_device_is_given_twice(
    drawn: tuple[list[Node], list[Island], bool], chance: random.Random
) -> None:
    nodes, islands, shared = drawn
    specs = tried(islands, nodes, shared)
    shuffled = list(nodes)
    chance.shuffle(shuffled)
    assert specs == tried(islands, shuffled, shared)
    if isinstance(specs, str):
        return
    workers = list(itertools.chain(*(spec.workers for spec in specs)))
    assert workers == [f"{i.name}/{index}" for i in islands for index in range(i.workers)]
    assert len({spec.name for spec in specs}) == len(specs)
    by_id = {node.id: node for node in nodes}
    pins = {i.name: i.node for i in islands}
    for spec in specs:
        pin = pins[spec.island]
        assert pin is None or by_id[str(spec.node)].matches(pin)
    for node in nodes:
        here = [spec for spec in specs if spec.node == node.id and spec.accelerator == "cuda"]
        assert sum(spec.num_workers for spec in here) <= node.count_free("cuda")
        if shared:
            used = list(itertools.chain(*(devices_of(spec).values() for spec in here)))
            assert len(set(used)) == len(used)


@given(clusters(), st.randoms(use_true_random=False))
def test_what_stays_is_not_moved_and_what_was_lost_finds_room_again(
    drawn: tuple[list[Node], list[Island], bool], chance: random.Random
) -> None:
    nodes, islands, shared = drawn
    before = tried(islands, nodes, shared)
    if isinstance(before, str):
        return
    kept = [spec for spec in before if chance.random() < 0.5]
    held = {node.id: 0 for node in nodes}
    for spec in kept:
        held[str(spec.node)] += spec.num_workers * (spec.accelerator == "cuda")
    if not shared:
        nodes = [replace(node, free={"cuda": node.count_free("cuda") - held[node.id]}) for node in nodes]
    after = tried(islands, nodes, shared, kept)
    if isinstance(after, str):
        # Only a pin can stand in the way: what may go anywhere finds as many devices as there were.
        assert any(i.node is not None for i in islands)
        return
    assert set(kept) <= set(after)
    workers = list(itertools.chain(*(spec.workers for spec in after)))
    assert workers == [f"{i.name}/{index}" for i in islands for index in range(i.workers)]


# Seats


def test_seats_come_in_the_order_of_islands_and_indices() -> None:
    specs = lay_out([island("west", "cpu", 2), island("gpu", workers=5)], [A, B])
    hellos = {s.name: hello(f"host-of-{s.name}") for s in specs}
    seats = make_seats(specs, hellos)
    assert [s.name for s in seats] == ["west/0", "west/1", "gpu/0", "gpu/1", "gpu/2", "gpu/3", "gpu/4"]
    assert [s.node for s in seats][-2:] == ["host-of-gpu-0", "host-of-gpu-4"]
    assert seats[-1].device == "cuda:0"


def test_a_dry_run_seats_whatever_the_job_asks_for() -> None:
    seats = seats_of_job([island("gpu", workers=100), island("east", "cpu", 1, role="experts")])
    assert len(seats) == 101
    assert (seats[-1].name, seats[-1].role) == ("east/0", "experts")


def hello(node: str) -> AgentFacts:
    return AgentFacts("east", "east", node, 1, "cpu", None, {"python": "3.11.7"}, {})


# Devices in quarantine

KEYS = tuple(f"GPU-{number}" for number in range(4))
MARKED = replace(A, keys={"cuda": KEYS}, left_out={"cuda": ("GPU-1",)})
APART = replace(A, left_out={"cuda": ("GPU-1",)})


def test_a_device_in_quarantine_is_passed_over_where_agents_know_it_by_its_number() -> None:
    assert places(lay_out([island("east", workers=3)], [MARKED])) == [
        ("east-0", A.id, 0, 1, 0), ("east-1", A.id, 1, 2, 2),
    ]  # fmt: skip
    kept = lay_out([island("east", workers=1)], [MARKED])
    both = lay_out([island("east", workers=1), island("west", workers=2)], [MARKED], kept=kept)
    assert places(both)[1:] == [("west", A.id, 0, 2, 2)]
    with pytest.raises(NoRoomError, match="only 3 devices are free") as error:
        lay_out([island("east", workers=4)], [MARKED])
    assert "alpha (10.0.0.1) has 4 cuda, 1 in quarantine, 3 free" in str(error.value)
    assert "-o 'fault.quarantine.lift=[GPU-1]'" in str(error.value)


def test_where_nobody_chooses_the_device_one_more_is_held_and_the_bad_one_left_out() -> None:
    """Ray says how many are free, and gives any of them."""
    (spec,) = lay_out([island("east", workers=3)], [APART], shared=False)
    assert (spec.num_workers, spec.first_device, spec.avoided) == (3, 0, ("GPU-1",))
    with pytest.raises(NoRoomError):
        lay_out([island("east", workers=4)], [APART], shared=False)
    with pytest.raises(NoRoomError):  # each of them may be given the bad one
        lay_out([island("east", workers=2), island("west", workers=2)], [APART], shared=False)
    first, second = lay_out([island("east", workers=2), island("west", workers=2)], [APART, B], shared=False)
    assert {(spec.node, spec.avoided) for spec in (first, second)} == {(A.id, ("GPU-1",)), (B.id, ())}


def test_devices_that_an_agent_holds() -> None:
    (spec,) = lay_out([island("east", workers=2)], [Node("id", "n", "10.0.0.9", {"cuda": 2})])
    assert devices_held(spec) == ("cuda:0", "cuda:1")
    assert devices_held(replace(spec, num_workers=0, room=1, first_device=3)) == ("cuda:3",)
