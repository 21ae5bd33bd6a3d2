"""Recursive doubling of new weights: on any number of workers everybody gets every part, once, with about log2 W
messages, from somebody who has it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from dougong.parallel.dense.buckets import TensorForm, in_halves, make_buckets
from dougong.parallel.dense.doubling import Doubling, DoublingRound
from dougong.parallel.dense.halving import Halving, share_of
from dougong.parallel.dense.stretches import side_by_side
from dougong.parallel.tree import LaneTree
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel.workers import plan_of

Messages = dict[tuple[int, int], tuple[int, ...]]


def rounds_of(doubling: Doubling, owners: Sequence[int], ranks: Sequence[int]) -> list[dict[int, DoublingRound]]:
    """By round, what each worker does."""
    of_rank = {rank: doubling.rounds(owners, rank) for rank in ranks}
    return [{rank: of_rank[rank][number] for rank in ranks} for number in range(len(doubling.distances))]


def sent_in(its: dict[int, DoublingRound]) -> Messages:
    return {(rank, target): one.going for rank, one in its.items() for target in one.targets}


def awaited_in(its: dict[int, DoublingRound]) -> Messages:
    return {(one.source, rank): one.coming for rank, one in its.items() if one.source is not None}


@given(st.sets(st.integers(0, 200), min_size=1, max_size=70), st.randoms())
@settings(max_examples=200, deadline=None)
def test_everybody_gets_every_part_once_from_one_who_has_it(of_plan: set[int], chance: object) -> None:
    ranks = sorted(of_plan)
    owners = chance.sample(ranks, chance.randint(1, len(ranks)))  # type: ignore[attr-defined]
    have = {rank: {rank} & set(owners) for rank in ranks}
    for its in rounds_of(Doubling(ranks), owners, ranks):
        assert sent_in(its) == awaited_in(its), "both sides know the same of every message"
        assert all(set(one.going) == have[rank] for rank, one in its.items() if one.targets), "all that it has"
        for (_, target), parts in sent_in(its).items():
            assert not have[target] & set(parts), "nothing comes twice"
            have[target] |= set(parts)
    assert all(of_rank == set(owners) for of_rank in have.values())


@given(st.integers(1, 70), st.integers(0, 69))
@settings(max_examples=100, deadline=None)
def test_one_owners_way_is_that_of_the_rounds(num_workers: int, owner: int) -> None:
    ranks, owner = range(num_workers), owner % num_workers
    messages = [sent_in(its) for its in rounds_of(Doubling(ranks), [owner], ranks)]
    one_by_one = [sorted(pair for pair, parts in of_round.items() if parts) for of_round in messages]
    way = list(Doubling(ranks).handed_on(owner))
    reached = {owner}
    for of_round in one_by_one:
        assert sorted(way[: len(of_round)]) == of_round
        assert all(source in reached for source, _ in of_round)
        reached |= {target for _, target in of_round}
        way = way[len(of_round) :]
    assert not way and reached == set(ranks)


@pytest.mark.parametrize("num_workers", [1, 2, 8, 64])
def test_on_equal_shares_it_is_the_sum_backwards(num_workers: int) -> None:
    tree, ranks = LaneTree(2 * num_workers), range(num_workers)
    halving = Halving(tree, {rank: tree.held([2 * rank, 2 * rank + 1]) for rank in ranks})
    owners = in_halves(ranks)
    for rank in ranks:
        up = [
            {peer: [owner for owner, _ in parts] for peer, parts in its.sends.items()}
            for its in share_of(halving, owners, rank).rounds
        ]
        down = [
            {one.source: list(one.coming)} for one in Doubling(ranks).rounds(owners, rank) if one.source is not None
        ]
        assert down == up[::-1]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8, 9, 15, 100, 127, 128, 129, 1000])
def test_messages_are_about_log2_of_the_workers(num_workers: int) -> None:
    """One in each round; where workers are no power of two, some get one less and some send one more."""
    doubling, num_rounds = Doubling(range(num_workers)), (num_workers - 1).bit_length()
    is_even = num_workers == 1 << num_rounds
    for rank in range(num_workers):
        its = doubling.rounds([], rank)
        assert len(its) == num_rounds
        assert num_rounds - sum(one.source is not None for one in its) in ([0] if is_even else [0, 1])
        sent = sum(len(one.targets) for one in its)
        assert sent == num_rounds if is_even else sent <= num_rounds + 1


@pytest.mark.parametrize("num_workers", [8, 128])
def test_a_bucket_takes_log2_messages_with_the_shapes_of_deepseek_v3(num_workers: int) -> None:
    """A bucket of norms that all own, and large tensors that are one owner's each."""
    shapes = {"embedding": (129280, 7168), "q_b": (24576, 1536), "o": (7168, 16384), "gate_up": (18432, 7168)}
    shapes |= {f"norm{number}": (7168,) for number in range(128)}
    plan = plan_of("B" * num_workers, num_workers, num_experts=num_workers, shapes=shapes)
    buckets = make_buckets({name: TensorForm("torch.bfloat16", shape) for name, shape in shapes.items()}, plan.owners)
    doubling, most = Doubling(range(num_workers)), num_workers.bit_length() - 1
    for bucket in buckets:
        sent = dict.fromkeys(range(num_workers), 0)
        received = dict.fromkeys(range(num_workers), 0)
        for rank in range(num_workers):
            for its in doubling.rounds(list(bucket.parts), rank):
                sent[rank] += len(side_by_side(bucket.parts, its.going)) * len(its.targets)
                received[rank] += len(side_by_side(bucket.parts, its.coming))
        assert max(sent.values()) <= most and max(received.values()) <= most
        assert sum(sent.values()) == sum(received.values()) <= most * num_workers
    assert len(buckets[-1].parts) > 1 and sum(sent.values()) > num_workers, "the last one is that of all"


def test_a_node_of_workers_keeps_seven_eighths_of_the_bytes() -> None:
    crossing = Doubling(range(64)).crossing(dict.fromkeys(range(64), 1.0))
    within = sum(num for (source, target), num in crossing.items() if source // 8 == target // 8)
    assert within / sum(crossing.values()) == pytest.approx(7 / 8, abs=0.02)


@given(st.integers(1, 40), st.randoms())
@settings(max_examples=100, deadline=None)
def test_bytes_are_counted_as_they_are_sent(num_workers: int, chance: object) -> None:
    ranks = [3 * place + 1 for place in range(num_workers)]
    owners = chance.sample(ranks, chance.randint(1, num_workers))  # type: ignore[attr-defined]
    owned = {owner: float(5 + number) for number, owner in enumerate(owners)}
    counted: dict[tuple[int, int], float] = {}
    for its in rounds_of(Doubling(ranks), owners, ranks):
        for pair, parts in sent_in(its).items():
            if parts:
                counted[pair] = counted.get(pair, 0.0) + sum(owned[owner] for owner in parts)
    assert Doubling(ranks).crossing(owned) == counted
