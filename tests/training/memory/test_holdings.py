"""From what everybody holds: which state is whole, and who takes what from whom."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from dougong.checkpoint.tensorfile import TensorShape
from dougong.training.memory.holdings import (
    HeldTensor,
    Holding,
    Moment,
    Place,
    newest_whole,
    offered,
    read_holdings,
    write_holdings,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = ("a", "b", "c")


def holding(step: int, names: str, place: Place = "memory", generation: int = 1) -> Holding:
    """A model's tensors, and of each what an optimizer keeps."""
    tensors = []
    for name in names:
        for group in ("model", "exp_avg"):
            tensors.append(HeldTensor(group, TensorShape(name, "F32", (2,)), f"{group}-{name}-{step}"))
    return Holding(Moment(step, generation), place, f"ledger-{step}", tuple(tensors))


Held = Mapping[int, list[Holding]]
CASES: dict[str, tuple[Held, Moment | None]] = {
    "nothing": ({}, None),
    "one has all": ({0: [holding(4, "abc")]}, Moment(4, 1)),
    "together they have all": ({0: [holding(4, "a")], 1: [holding(4, "bc")]}, Moment(4, 1)),
    "the newest lacks one": ({0: [holding(4, "ab"), holding(3, "abc")]}, Moment(3, 1)),
    "steps are never mixed": ({0: [holding(4, "ab")], 1: [holding(3, "bc")]}, None),
    "generations are never mixed": (
        {0: [holding(4, "ab", generation=1)], 1: [holding(4, "bc", generation=2), holding(4, "a", generation=2)]},
        Moment(4, 2),
    ),
    "disks count": ({0: [holding(5, "ab")], 1: [holding(5, "c", "disk")]}, Moment(5, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_newest_whole_state(case: str) -> None:
    held, expected = CASES[case]
    found = newest_whole(offered([held.get(rank, []) for rank in range(2)], 0), NAMES)
    assert (None if found is None else found.moment) == expected
    if found is not None:
        assert found.ledger == f"ledger-{found.moment.step}"


def test_a_state_older_than_the_checkpoint_is_not_looked_at() -> None:
    held = [[holding(4, "abc")]]
    assert newest_whole(offered(held, 5), NAMES) is None
    assert newest_whole(offered(held, 4), NAMES) is not None


def test_own_memory_comes_before_a_peer_s_and_that_before_disks() -> None:
    held = [[holding(4, "a")], [holding(4, "ab"), holding(4, "c", "disk")], [holding(4, "c", "disk")]]
    (offers,) = offered(held, 0)
    wants = [[("model", name) for name in NAMES], [], [("model", "c"), ("step", "c")]]
    fetches = offers.fetches(wants)
    found = {(fetch.target, fetch.tensor.key): fetch.holder for fetch in fetches}
    assert found == {
        (0, ("model", "a")): (0, "memory"),
        (0, ("model", "b")): (1, "memory"),
        (0, ("model", "c")): (2, "disk"),  # worker 1 sends something already
        (2, ("model", "c")): (2, "disk"),
    }
    assert [fetch.crosses for fetch in fetches] == [False, True, True, False]


def test_a_damaged_copy_is_not_asked_again_and_the_last_one_makes_the_state_less_than_whole() -> None:
    (offers,) = offered([[holding(4, "abc")], [holding(4, "a")]], 0)
    offers.drop(("exp_avg", "a"), (0, "memory"))
    assert offers.is_whole(NAMES)
    assert [fetch.holder for fetch in offers.fetches([[("exp_avg", "a")], []])] == [(1, "memory")]
    offers.drop(("exp_avg", "a"), (1, "memory"))
    assert not offers.is_whole(NAMES)


def test_many_who_want_the_same_do_not_all_ask_one() -> None:
    everybody = [[holding(4, "abc")] for _ in range(4)] + [[] for _ in range(8)]
    (offers,) = offered(everybody, 0)
    fetches = offers.fetches([[] for _ in range(4)] + [[("model", "a"), ("model", "b")] for _ in range(8)])
    assert sorted(fetch.source for fetch in fetches) == sorted([0, 1, 2, 3] * 4)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from(["", "a", "ab", "bc", "abc"]))),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_held_travels_and_what_is_whole_can_be_fetched(drawn: list[list[tuple[int, int, str]]]) -> None:
    held = [[holding(step, names, generation=g) for step, g, names in of_rank] for of_rank in drawn]
    assert [read_holdings(write_holdings(of_rank)) for of_rank in held] == held
    offers = offered(held, 0)
    found = newest_whole(offers, NAMES)
    keys = [(group, name) for name in NAMES for group in ("model", "exp_avg")]
    for of_moment in offers:
        newer = found is None or of_moment.moment > found.moment
        assert not (newer and of_moment.is_whole(NAMES))
    if found is None:
        return
    fetches = found.fetches([keys for _ in held])
    assert len(fetches) == len(keys) * len(held)
    for fetch in fetches:
        rank, place = fetch.holder
        assert any(of.moment == found.moment and of.place == place and fetch.tensor in of.tensors for of in held[rank])
