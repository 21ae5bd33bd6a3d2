"""Differences that are alike in many layers are one."""

from __future__ import annotations

from dougong.tools.difference import Difference
from dougong.tools.experts.grouping import grouped


def said(differences: list[Difference]) -> list[str]:
    return [str(one) for one in grouped(differences)]


def gate(layer: int, num_different: int = 3, largest: float | None = 0.5) -> Difference:
    return Difference(None, f"model.layers.{layer}.mlp.gate.weight", num_different, 16, largest)


def test_numbers_are_those_of_all() -> None:
    assert said([gate(0), gate(2, 5, 2.0), gate(1, 1, None)]) == [
        "model.layers.*.mlp.gate.weight (* is 0-2): 9 of 48 elements differ, by at most 2"
    ]


def test_words_are_said_once_and_each_group_stands_where_its_first_one_stood() -> None:
    lost = [Difference(None, f"layers.{n}.norm", note="only in a") for n in (0, 3)]
    other = Difference(None, "layers.1.norm", note="only in b")
    assert said([lost[0], gate(0), other, lost[1]]) == [
        "layers.*.norm (* is 0, 3): only in a",
        "model.layers.0.mlp.gate.weight: 3 of 16 elements differ, by at most 0.5",
        "layers.1.norm: only in b",
    ]


def test_other_sizes_are_not_alike() -> None:
    assert len(grouped([gate(0), Difference(None, "model.layers.1.mlp.gate.weight", 3, 32)])) == 2


def test_a_number_in_a_word_is_of_the_word() -> None:
    assert len(grouped([Difference(None, f"layers.0.w{n}.weight", note="?") for n in (1, 2)])) == 2


def test_several_numbers_are_counted() -> None:
    alike = [Difference(None, f"a.{m}.b.{n}", note="?") for m in range(2) for n in range(3)]
    assert said(alike) == ["a.*.b.* (6 of such a name): ?"]
    pair = [Difference(None, f"a.{n} and b.{n}", note="?") for n in range(3)]
    assert said(pair) == ["a.* and b.* (* is 0-2): ?"]
