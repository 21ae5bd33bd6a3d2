"""Who is measured with whom, and who is measured again."""

from __future__ import annotations

import itertools

import pytest
from dougong.deadlines import DEADLINES
from dougong.doctor.ask.measure import (
    best_of_nodes,
    better_speeds,
    measure_devices,
    rounds_of_pairs,
    slow_nodes,
    slow_pairs,
)
from dougong.doctor.ask.nodes import NodesHere
from dougong.doctor.ask.observations import Inquiry
from dougong.doctor.facts import LinkAnswer, SpeedAnswer, SpeedQuestion
from dougong.doctor.node.examiner import NodeExaminer
from tests.doctor.made import sound, speed, with_speeds


@pytest.mark.parametrize("number", [0, 1, 2, 3, 6])
def test_pairs_of_a_few_nodes_are_all_measured_one_after_another(number: int) -> None:
    names = [str(i) for i in range(number)]
    rounds = list(rounds_of_pairs(names))
    assert all(len(pairs) == 1 for pairs in rounds)
    assert sorted(itertools.chain(*rounds)) == sorted(itertools.combinations(names, 2))


@pytest.mark.parametrize("number", [7, 8, 33])
def test_of_many_each_is_in_one_pair_of_a_round_and_never_twice_in_the_same(number: int) -> None:
    rounds = list(rounds_of_pairs([str(i) for i in range(number)]))
    for pairs in rounds:
        nodes = list(itertools.chain(*pairs))
        assert len(nodes) == len(set(nodes)) >= number - 1
    pairs = [frozenset(pair) for pair in itertools.chain(*rounds)]
    assert len(pairs) == len(set(pairs))
    assert min(sum(str(i) in pair for pair in pairs) for i in range(number)) >= 3


def test_who_is_slow_is_measured_again_and_the_better_figures_count() -> None:
    seen = with_speeds(sound(), {"n1": speed(matmul=2e10, cpu_share=0.2)})
    assert slow_nodes(seen) == ["n1"]
    again = SpeedAnswer((speed(matmul=9e10, memory=5e9, bits="zz", cpu_share=0.9),))
    (better,) = better_speeds(seen.speeds["n1"], again).devices
    assert (better.matmul_flops, better.memory_bytes_per_s, better.cpu_share) == (9e10, 1e10, 0.9)
    assert better.fingerprint == seen.speeds["n1"].devices[0].fingerprint


def test_a_moment_s_load_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, bool]] = []
    rates = iter([1e11, 1e10, 1e11, 3e10, 9e10])

    def answer(self: NodeExaminer, question: SpeedQuestion) -> SpeedAnswer:
        told.append((next(rates), question.with_bits))
        return SpeedAnswer((speed(matmul=told[-1][0]),))

    monkeypatch.setattr(NodeExaminer, "speed", answer)
    seen = sound(speeds={})
    for name in seen.nodes:  # all on one machine: they take turns
        seen.facts[name] = seen.facts["n0"]
    nodes = NodesHere([])
    nodes.begin(list(seen.nodes))
    measure_devices(Inquiry(nodes, seen, DEADLINES))
    assert told == [(1e11, True), (1e10, True), (1e11, True), (3e10, False), (9e10, False)]
    assert slow_nodes(seen) == []


def test_links_that_give_less_than_half_of_the_quickest_are_measured_again() -> None:
    links = {
        ("a", "b"): LinkAnswer(0, 9.0, 10.0),
        ("a", "c"): LinkAnswer(0, 10.0, 4.0),
        ("b", "c"): LinkAnswer(problem="x"),
    }
    assert slow_pairs(links) == [("a", "c"), ("b", "c")]
    assert best_of_nodes({("a", "b"): 9.0, ("a", "c"): 4.0}) == {"a": 9.0, "b": 9.0, "c": 4.0}
