"""Phases: what is told to whoever watches, and where the seconds go."""

from __future__ import annotations

import pytest
from dougong.control.progress import PHASES
from dougong.training.results.phases import Phases


def watched() -> tuple[Phases, list[tuple[int, str, int]]]:
    told: list[tuple[int, str, int]] = []
    return Phases(lambda step, phase, operation: told.append((step, phase, operation))), told


def test_a_phase_is_told_with_its_step() -> None:
    phases, told = watched()
    phases.begin_step(7)
    with phases("forward"):
        phases.note("backward", 3)
    with phases("update"):
        pass
    assert told == [(7, "forward", 0), (7, "backward", 3), (7, "update", 0)]
    assert {phase for _, phase, _ in told} <= set(PHASES)


def test_seconds_are_kept_by_phase_and_begin_anew_with_every_step() -> None:
    phases, _ = watched()
    phases.begin_step(1)
    with phases("forward"):
        phases.note("backward", 0)
    with phases("exchange"):
        pass
    first = phases.seconds
    assert list(first) == ["forward", "backward", "exchange"] and all(s >= 0 for s in first.values())
    with phases("exchange"):
        pass
    assert phases.seconds["exchange"] >= first["exchange"], "two blocks of one phase are added up"
    phases.begin_step(2)
    assert phases.seconds == {}


def test_what_runs_between_phases_belongs_to_none() -> None:
    phases, _ = watched()
    with phases("update"):
        pass
    spent = phases.seconds
    with phases("validate"):
        pass
    assert phases.seconds["update"] == spent["update"]


def test_a_phase_ends_with_the_error_that_ends_it() -> None:
    phases, _ = watched()
    with pytest.raises(ValueError), phases("update"):
        raise ValueError
    assert "update" in phases.seconds
