"""Nodes within this process: asked at the same time, silent where they hang, fail or are not understood."""

from __future__ import annotations

import threading

import pytest
from dougong.doctor.ask.nodes import NodesHere, Replies, note
from dougong.doctor.facts import CLOCK, LOOK, ClockAnswer, ClockQuestion
from dougong.doctor.node.examiner import NodeExaminer
from dougong.errors import LaunchError
from dougong.planner.nodes import Node


def nodes(number: int) -> NodesHere:
    found = NodesHere([lambda kinds, name=f"n{i}": Node(name, name, "127.0.0.1") for i in range(number)])  # type: ignore[misc]
    found.begin([node.id for node in found.nodes(())])
    return found


def test_all_are_asked_and_answer() -> None:
    found = nodes(3).ask(CLOCK, {f"n{i}": ClockQuestion() for i in range(3)}, 5)
    assert sorted(found.given) == ["n0", "n1", "n2"] and not found.silent


def test_one_that_hangs_or_fails_is_silent_and_the_others_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    held = threading.Event()

    def clock(self: NodeExaminer, question: ClockQuestion) -> ClockAnswer:
        begun.append(1)
        if len(begun) == 1:
            held.wait(20)
        if len(begun) == 2:
            raise LaunchError("there is no time")
        return ClockAnswer(1.0)

    monkeypatch.setattr(NodeExaminer, "clock", clock)
    found = nodes(3).ask(CLOCK, {f"n{i}": ClockQuestion() for i in range(3)}, 1)
    held.set()
    assert len(found.given) == 1
    assert sorted(found.silent.values()) == ["it has not answered within 1 s", "there is no time"]


def test_an_answer_of_another_dougong_is_told_so() -> None:
    answers: Replies[object] = Replies()
    note(answers, LOOK, "n0", '{"host": 7}')
    assert "another dougong" in answers.silent["n0"]
