"""Which layers are each other's."""

from __future__ import annotations

from dougong.tools.experts.pairing import paired


def sites(prefix: str, *layers: int) -> list[str]:
    return [f"{prefix}.layers.{layer}.mlp.experts" for layer in layers]


def test_those_of_one_name_are_paired_and_a_lost_one_is_alone() -> None:
    mine, theirs = sites("model", 0, 1, 2), sites("model", 0, 2, 3)
    assert paired(mine, theirs[:2]) == [(mine[0], mine[0]), (mine[1], None), (mine[2], mine[2])]
    assert paired(theirs[:2], mine)[-1] == (None, mine[1])


def test_those_of_other_names_follow_each_other_or_have_one_number() -> None:
    mine, theirs = sites("model", 1, 2, 3), sites("language_model", 0, 1, 2)
    assert paired(mine, theirs) == list(zip(mine, theirs, strict=True))
    assert paired(mine, theirs[1:]) == [(mine[0], theirs[1]), (mine[1], theirs[2]), (mine[2], None)]
    assert paired(mine[:1], theirs[:1] + theirs[2:]) == [(mine[0], None), (None, theirs[0]), (None, theirs[2])]
