"""Patterns of tensor names."""

from __future__ import annotations

import pytest
from dougong.job.parts.patterns import is_among, parameter_name, without_match

NAMES = ["model.embed.weight", "model.layers.0.norm.weight", "model.layers.0.mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*"], NAMES),
        (["*.experts.*"], NAMES[2:]),
        (["*", "!*norm*"], [NAMES[0], NAMES[2]]),
        (["!*norm*", "*"], NAMES),
        (["*", "!*layers*", "*norm*"], NAMES[:2]),
        (["model.embed"], []),
        (["*[0]*", "*laye?s*"], []),
        ([], []),
    ],
)
def test_the_last_that_matches_decides(patterns: list[str], found: list[str]) -> None:
    assert [name for name in NAMES if is_among(patterns, name)] == found


def test_an_expert_is_known_by_its_parameter() -> None:
    assert parameter_name(f"{NAMES[2]}[17]") == NAMES[2]
    assert parameter_name(NAMES[0]) == NAMES[0]


def test_a_pattern_that_matches_nothing_is_told_with_a_name_that_is_near() -> None:
    assert without_match(["*.norm.*", "!*embed*"], NAMES) is None
    assert without_match(["*norm*", "model.embd.weight"], NAMES) == (
        "'model.embd.weight' matches no tensor of the model, such as model.embed.weight (`*` stands for anything)"
    )
