"""One node that is asked, by text, as Ray carries it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dougong.deadlines import DEADLINES
from dougong.doctor.facts import (
    CLOCK,
    SPEED,
    ClockQuestion,
    Post,
    SpeedQuestion,
)
from dougong.doctor.node.examiner import NodeExaminer, num_devices
from pydantic import ValidationError


def test_a_question_and_its_answer_travel_as_text() -> None:
    examiner = NodeExaminer()
    told = CLOCK.told.validate_json(examiner.answer("clock", CLOCK.asked.dump_json(ClockQuestion()).decode()))
    assert told.wall_s > 1e9
    with pytest.raises(ValidationError):
        examiner.answer("look", '{"of": "another dougong"}')


def test_a_device_is_measured_by_a_process_that_may_end_badly() -> None:
    question = SpeedQuestion((Post("cpu", "cpu", 1),), "float8", False, DEADLINES)
    answer = NodeExaminer().speed(question)
    (found,) = answer.devices
    assert found.problem == "its process ended: KeyError: 'float8'"
    assert SPEED.told.validate_json(SPEED.told.dump_json(answer)) == answer


def test_a_process_that_does_not_end_is_ended() -> None:
    question = SpeedQuestion((Post("cpu", "cpu", 1),), "float32", True, replace(DEADLINES, doctor_speed_s=0.2))
    (found,) = NodeExaminer().speed(question).devices
    assert found.problem == "its process has not ended within 0.2 s"


def test_devices_that_are_not_there_are_not_measured() -> None:
    assert num_devices(Post("cpu", "cpu", 4)) == 1
    assert num_devices(Post("x", "npu", 2)) == 0
    assert num_devices(Post("x", "nothing", 2)) == 0
