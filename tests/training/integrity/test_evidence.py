"""Whom the words of all workers point at, where they do not fit together."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.training.integrity.evidence import WorkerEvidence, find

OWNERS = {"norm": 0, "head": 1}


def words(**said: Any) -> WorkerEvidence:
    return WorkerEvidence(**{"changed": (), "messages": {}, "spread": {"norm": 1, "head": 2}, **said})


def test_they_travel_as_they_are() -> None:
    one = words(changed=(("exp_avg", "head"),), messages={("rows", 1, True): 2**64 - 1}, replicas=(1,))
    assert WorkerEvidence.decode(one.encode()) == one


def test_nothing_is_wrong_where_all_fits() -> None:
    assert find([words(), words(), words(spread={})], OWNERS) is None


def test_a_changed_tensor_is_its_worker_s() -> None:
    found = find([words(), words(changed=(("model", "head"), ("exp_avg", "head")))], OWNERS)
    assert found is not None and found.accused == (1,)
    assert found.what.startswith("the weight head, the exp_avg of head changed in memory")


def test_a_changed_message_is_between_two() -> None:
    sent, arrived = words(messages={("rows", 1, True): 5}), words(messages={("rows", 0, False): 6})
    found = find([sent, arrived], OWNERS)
    assert found is not None and found.accused == (0, 1)


def test_a_damaged_replica_is_between_its_owner_and_its_holder() -> None:
    found = find([words(), words(replicas=(0,))], OWNERS)
    assert found is not None and found.accused == (0, 1)


def test_of_two_copies_that_differ_nobody_knows_which_is_right() -> None:
    found = find([words(), words(spread={"norm": 9, "head": 2})], OWNERS)
    assert found is not None and found.accused == (0, 1) and "the weight norm" in found.what


def test_an_owner_alone_against_all_others_is_wrong() -> None:
    found = find([words(), words(spread={"norm": 1, "head": 3}), words()], OWNERS)
    assert found is not None and found.accused == (1,)


def test_one_of_several_who_got_it_is_between_it_and_the_owner() -> None:
    found = find([words(), words(), words(spread={"norm": 1, "head": 3})], OWNERS)
    assert found is not None and found.accused == (1, 2)


RIGHT, WRONG, OTHER = 5, 6, 7


@pytest.mark.parametrize(("owner", "values", "accused"), [
    # Of four, worker 1 sends to 3 and to 0, and 3 hands it on to 2.
    (1, (RIGHT, RIGHT, WRONG, WRONG), (1, 3)),  # on its way to 3, which handed on what it got
    (1, (RIGHT, RIGHT, WRONG, RIGHT), (3, 2)),  # its owner has nothing to do with that
    (1, (RIGHT, RIGHT, RIGHT, WRONG), (3,)),  # 3 handed on what is right
    (1, (WRONG, RIGHT, RIGHT, RIGHT), (1, 0)),
    (1, (RIGHT, WRONG, RIGHT, RIGHT), (1,)),  # all others agree
    (1, (WRONG, RIGHT, WRONG, OTHER), (1, 3)),  # twice: the first in time
    # Of three, worker 2 sends to 0 alone, which hands it on to 1: all others agree, and got it from one.
    (2, (WRONG, WRONG, RIGHT), (2, 0)),
    (2, (WRONG, RIGHT, RIGHT), (0,)),
    (2, (RIGHT, WRONG, RIGHT), (0, 1)),
    # Of five, worker 4 sends to 0, 0 to 2, these two to 1 and 3.
    (4, (WRONG, WRONG, WRONG, WRONG, RIGHT), (4, 0)),
    (4, (RIGHT, RIGHT, WRONG, WRONG, RIGHT), (0, 2)),
])  # fmt: skip
def test_what_was_handed_on_is_wrong_from_where_it_changed(
    owner: int, values: tuple[int, ...], accused: tuple[int, ...]
) -> None:
    found = find([words(spread={"norm": value}) for value in values], {"norm": owner})
    assert found is not None and found.accused == accused


def test_workers_without_lanes_hand_nothing_on() -> None:
    have_it = {1: RIGHT, 3: RIGHT, 4: WRONG, 6: WRONG}  # the four of above
    evidences = [words(spread={"norm": have_it[rank]} if rank in have_it else {}) for rank in range(8)]
    found = find(evidences, {"norm": 3})
    assert found is not None and found.accused == (3, 6)


@pytest.mark.parametrize(("owner", "values", "accused"), [
    (2, (RIGHT, WRONG, RIGHT), (2, 1)),
    (0, (WRONG, RIGHT, RIGHT), (0,)),
    (1, (RIGHT, WRONG, RIGHT), (1,)),
])  # fmt: skip
def test_what_came_from_its_owner_alone_is_wrong_there_or_at_the_other_end(
    owner: int, values: tuple[int, ...], accused: tuple[int, ...]
) -> None:
    evidences = [words(spread={"norm": value}) for value in values]
    found = find(evidences, {"norm": owner}, is_handed_on=False)
    assert found is not None and found.accused == accused
