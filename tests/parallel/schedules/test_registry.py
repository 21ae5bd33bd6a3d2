"""All schedules by name: they hold on every team, and each is what its paper says."""

from __future__ import annotations

import itertools

import pytest
from dougong.errors import PlanError
from dougong.parallel.schedules.af_pipe import into_groups
from dougong.parallel.schedules.check import Alive, check
from dougong.parallel.schedules.registry import SCHEDULES, make_programs
from tests.parallel.schedules.orders import SPLIT, TEAMS, order_of


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_holds_on_every_team(name: str, team: str) -> None:
    roles = TEAMS[team]
    if name == "colocated" and set(roles.values()) != {"both"}:
        with pytest.raises(PlanError, match=r"schedule `colocated` and a worker with `role: (attention|experts)`"):
            make_programs(name, 2, 2, roles)
        return
    for num_sites, num_microbatches in itertools.product(range(5), range(1, 5)):
        programs = make_programs(name, num_sites, num_microbatches, roles)
        assert set(check(programs, num_sites, num_microbatches)) == set(roles)


@pytest.mark.parametrize("num_microbatches", range(5, 14))
def test_groups_of_af_pipe_hold_for_any_number_of_micro_batches(num_microbatches: int) -> None:
    for num_sites in (1, 3):
        check(make_programs("af_pipe", num_sites, num_microbatches, TEAMS["mixed"]), num_sites, num_microbatches)


def test_serial_takes_one_micro_batch_after_the_other() -> None:
    programs = make_programs("serial", 2, 2, SPLIT)
    one = "F(0,{0}) F(1,{0}) F(2,{0}) B(2,{0}) B(1,{0}) B(0,{0})"
    assert " ".join(order_of(programs, "attention")) == f"{one.format(0)} {one.format(1)}"
    one = "F(0,{0}) F(1,{0}) B(1,{0}) B(0,{0})"
    assert " ".join(order_of(programs, "experts")) == f"{one.format(0)} {one.format(1)}"
    together = [make_programs(name, 2, 2, TEAMS["both"]) for name in ("serial", "colocated")]
    assert order_of(together[0], "both") == order_of(together[1], "both")


def test_zebra_is_theorem_1() -> None:
    programs = make_programs("zebra", 2, 3, SPLIT)
    assert " ".join(order_of(programs, "attention")) == (
        "F(0,0) F(0,1) F(0,2) F(1,0) F(1,1) F(1,2) "
        "F(2,0) B(2,0) F(2,1) B(2,1) F(2,2) B(2,2) "
        "B(1,0) B(1,1) B(1,2) B(0,0) B(0,1) B(0,2)"
    )
    assert " ".join(order_of(programs, "experts")) == (
        "F(0,0) F(0,1) F(0,2) F(1,0) F(1,1) F(1,2) B(1,0) B(1,1) B(1,2) B(0,0) B(0,1) B(0,2)"
    )


def test_af_pipe_lets_one_group_in_as_another_goes_out() -> None:
    programs = make_programs("af_pipe", 1, 6, SPLIT)
    assert " ".join(order_of(programs, "attention")) == (
        "F(0,0) F(0,1) F(0,2) "
        "F(1,0) B(1,0) F(1,1) B(1,1) F(1,2) B(1,2) "
        "F(0,3) B(0,0) F(0,4) B(0,1) F(0,5) B(0,2) "
        "F(1,3) B(1,3) F(1,4) B(1,4) F(1,5) B(1,5) "
        "B(0,3) B(0,4) B(0,5)"
    )
    assert make_programs("af_pipe", 3, 4, SPLIT) == make_programs("zebra", 3, 4, SPLIT)


@pytest.mark.parametrize(
    ("name", "segments", "waves"), [("serial", 9, 8), ("zebra", 8 * 16 + 1, 8 * 16), ("af_pipe", 8 * 4 + 1, 8 * 4)]
)
def test_what_is_alive_at_most(name: str, segments: int, waves: int) -> None:
    alive = check(make_programs(name, 8, 16, SPLIT), 8, 16)
    assert alive == {"a": Alive(segments, 0), "e": Alive(0, waves)}


@pytest.mark.parametrize(
    ("num_microbatches", "sizes"), [(1, [1]), (4, [4]), (5, [3, 2]), (8, [4, 4]), (9, [3, 3, 3]), (11, [4, 4, 3])]
)
def test_groups_are_as_equal_as_can_be(num_microbatches: int, sizes: list[int]) -> None:
    groups = into_groups(num_microbatches, 4)
    assert [len(group) for group in groups] == sizes
    assert [j for group in groups for j in group] == list(range(num_microbatches))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PlanError, match=r"'zebras' is not one of serial, colocated, zebra, af_pipe"):
        make_programs("zebras", 1, 1, SPLIT)
