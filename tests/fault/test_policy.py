"""What is done about each class of failure."""

from __future__ import annotations

import pytest
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.policy import decide
from dougong.job.schema import Fault

DEATH = Diagnosis("east/1", "crash", "SIGKILL")


@pytest.mark.parametrize(
    ("kind", "before", "allowed", "action"),
    [
        ("crash", 0, 3, "restart"),
        ("crash", 2, 3, "restart"),
        ("crash", 3, 3, "fail"),
        ("crash", 0, 0, "fail"),
        ("out_of_memory", 0, 1, "restart"),
        ("exception", 0, 1, "restart"),
        ("hang", 0, 1, "restart"),
        ("node_lost", 0, 1, "restart"),
        ("storage", 0, 1, "restart"),
        ("preemption", 0, 1, "restart"),
        ("data", 0, 3, "fail"),
        ("model", 0, 3, "fail"),
        ("numerics", 0, 3, "fail"),
    ],
)
def test_decisions(kind: str, before: int, allowed: int, action: str) -> None:
    diagnosis = Diagnosis("east/1", kind, "cause")  # type: ignore[arg-type]
    assert decide(diagnosis, Fault(max_restarts=allowed), [DEATH] * before).action == action


def test_the_reason_names_the_knob() -> None:
    assert "fault.max_restarts is 1" in decide(DEATH, Fault(max_restarts=1), [DEATH]).reason
