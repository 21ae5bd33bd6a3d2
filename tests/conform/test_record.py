"""What a report says is at fault by itself, and what follows from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

from dougong.conform.record import COPIES, CheckOutcome, Conformance, Grade, OperatorFacts, with_causes
from dougong.records.machine import Machine
from pydantic import BaseModel

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conform.md"


def outcome(judges: str, *calls: str, grade: Grade = "unsound", group: str = "operators") -> CheckOutcome:
    facts = OperatorFacts(form="native", calls=calls) if group == "operators" else None
    return CheckOutcome(name=judges, group=group, judges=judges, grade=grade, words=("wrong",), operator=facts)


def culprits(*outcomes: CheckOutcome) -> list[str]:
    return [one.judges for one in with_causes(outcomes) if one.is_culprit]


def test_what_is_made_of_an_unsound_operator_follows_from_it() -> None:
    mm, linear = outcome("aten::mm", "aten::mm"), outcome("aten::addmm", "aten::addmm", "aten::mm")
    assert culprits(mm, linear) == ["aten::mm"]
    assert [one.follows for one in with_causes((mm, linear))] == [(), ("aten::mm",)]


def test_an_in_place_form_is_the_same_operator() -> None:
    assert culprits(outcome("aten::add", "aten::add"), outcome("aten::mul", "aten::mul", "aten::add_")) == ["aten::add"]


def test_of_two_that_call_each_other_both_are_named() -> None:
    gather = outcome("aten::gather", "aten::gather", "aten::scatter")
    scatter = outcome("aten::scatter", "aten::scatter", "aten::gather")
    assert culprits(gather, scatter) == ["aten::gather", "aten::scatter"]


def test_a_sound_operator_explains_nothing() -> None:
    assert culprits(outcome("aten::mm", grade="sound"), outcome("aten::addmm", "aten::mm")) == ["aten::addmm"]


def test_operators_follow_from_copies_and_methods_do_not() -> None:
    copies, operator = outcome("Tensor.to", group=COPIES), outcome("aten::mm", "aten::mm")
    assert culprits(copies, operator, outcome("Event", group="streams")) == ["Tensor.to", "Event"]


def test_a_report_is_sound_where_nothing_is_unsound() -> None:
    def report(*outcomes: CheckOutcome) -> Conformance:
        return Conformance(accelerator="x", device={}, machine=Machine(), wall="", outcomes=outcomes)

    assert report(outcome("a", grade="sound"), outcome("b", grade="not run")).is_sound
    found = report(outcome("a", grade="sound"), outcome("b", group="streams"))
    assert not found.is_sound and [one.judges for one in found.culprits] == ["b"]
    assert [one.judges for one in found.group("streams")] == ["b"]
    assert Conformance.model_validate_json(found.model_dump_json()) == found


def test_the_verdict_and_the_exit_status_are_in_the_file_and_follow_from_the_rest() -> None:
    def kept(grade: Grade, **more: object) -> tuple[str, int]:
        found = Conformance(
            accelerator="x", device={}, machine=Machine(), wall="", outcomes=(outcome("a", grade=grade),), **more
        )
        told = json.loads(found.model_dump_json())
        assert Conformance.model_validate(told | {"verdict": "?", "exit_status": 9}) == found
        return told["verdict"], told["exit_status"]

    assert kept("sound") == ("sound", 0)
    assert kept("unsound") == ("unsound", 1)
    assert kept("sound", cut_short="operators: mm", signal=2) == ("none", 130)
    assert kept("unsound", cut_short="operators: mm", signal=15) == ("unsound", 143)


def fields_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Names as the document has them: of what lies inside, behind a dot."""
    for name, field in model.model_fields.items():
        kinds, place = [field.annotation], f"{before}{name}"
        while kinds and not isinstance(kinds[0], type):
            is_list = get_origin(kinds[0]) is tuple
            kinds = [kind for kind in get_args(kinds[0]) if kind not in (type(None), Ellipsis)]
            place += "[]" if is_list else ""
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            yield place.removesuffix("[]")
            continue
        if not place.endswith("[]") and name != "machine":
            yield place
        yield from fields_of(inner, f"{place}.")
    yield from (f"{before}{name}" for name in model.model_computed_fields)


def test_every_field_of_the_file_is_in_the_document() -> None:
    section = DOCUMENT.read_text().split("## The JSON")[1].split("## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(told) == sorted(fields_of(Conformance))
