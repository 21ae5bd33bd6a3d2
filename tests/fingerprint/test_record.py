"""The value and its way over JSON; what differs between two is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from dougong.fingerprint.record import (
    UNSTABLE,
    Fingerprint,
    JobShapes,
    differing_environment,
    differing_probes,
    question_of,
)
from tests.fingerprint.shapes import SHAPES

ONE = Fingerprint({"sum": "aa", "exp": "bb"}, "r", {"threads": "1", "torch": "2.13"})


def test_it_survives_json() -> None:
    assert Fingerprint.from_json(json.loads(json.dumps(ONE.to_json()))) == ONE
    assert JobShapes.from_json(json.loads(json.dumps(dataclasses.asdict(SHAPES)))) == SHAPES


@pytest.mark.parametrize(
    "damage",
    [
        {"class": "0" * 16},
        {"probes": {"sum": "ab", "exp": "bb"}},
        {"probes": {"sum": "aa"}},
        {"probes": ["sum"]},
        {"environment": None},
    ],
)
def test_a_damaged_one_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        Fingerprint.from_json(ONE.to_json() | damage)


def test_the_class_is_that_of_the_probes_alone() -> None:
    assert dataclasses.replace(ONE, environment={}).kernel_class == ONE.kernel_class
    assert dataclasses.replace(ONE, probes={"exp": "bb", "sum": "aa"}).kernel_class == ONE.kernel_class
    assert dataclasses.replace(ONE, probes={"sum": "aa", "exp": "bc"}).kernel_class != ONE.kernel_class


def test_what_differs_is_named() -> None:
    other = Fingerprint({"sum": "aa", "exp": "cc", "new": "dd"}, "r", {"threads": "2", "torch": "2.13", "$X": "1"})
    assert differing_probes(ONE, other) == ["exp", "new"]
    assert differing_environment(ONE, other) == {"threads": ("1", "2"), "$X": ("-", "1")}


def test_the_recipe_follows_what_is_asked() -> None:
    asked = [
        (("float32",), None),
        (("float32", "bfloat16"), None),
        (("float32",), SHAPES),
        (("float32",), dataclasses.replace(SHAPES, sequence=33)),
    ]
    assert len({question_of(precisions, shapes) for precisions, shapes in asked}) == len(asked)
    assert question_of(("float32",), SHAPES) == question_of(("float32",), dataclasses.replace(SHAPES))


def test_unstable_probes_are_known_by_their_hash() -> None:
    assert ONE.unstable == ()
    assert dataclasses.replace(ONE, probes={"sum": UNSTABLE, "exp": "bb"}).unstable == ("sum",)


def test_a_record_of_the_first_version_has_no_number() -> None:
    old = {key: value for key, value in ONE.to_json().items() if key != "version"}
    assert Fingerprint.from_json(old).version == 1


def test_a_probe_without_bits_says_why() -> None:
    probes = {"sum": "none", "exp": "cannot run: RuntimeError: no memory", "log": "aa"}
    found = dataclasses.replace(ONE, probes=probes)
    assert found.unanswered == {"sum": "no kernel", "exp": "RuntimeError: no memory"}


def test_among_which_forms_one_was_looked_for_is_no_part_of_the_question() -> None:
    looked, settled = (dataclasses.replace(SHAPES, attention=forms) for forms in (("flash", "sdpa"), ("sdpa",)))
    assert question_of(("float32",), looked) == question_of(("float32",), settled)
    assert question_of(("float32",), looked) != question_of(("float32",), dataclasses.replace(looked, sequence=64))
