"""Whom the words of all workers point at, where they do not fit together."""

from __future__ import annotations

from typing import Any

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
