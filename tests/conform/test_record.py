"""What a report says is at fault by itself, and what follows from it."""

from __future__ import annotations

from dougong.conform.record import COPIES, CheckOutcome, Conformance, Grade, OperatorFacts, with_causes
from dougong.records.machine import Machine


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
