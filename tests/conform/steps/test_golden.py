"""Training on a device against the processor: the processor against itself, and a loss that is off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, outcome_of
from dougong.conform.steps import golden
from dougong.conform.steps.golden import BOUND, FIRST_BOUND, FIRST_STEPS, Trained, golden_checks, trained

BED = Bed(Cpu(), CPU, Path())


@pytest.mark.slow
def test_a_few_steps_twice_have_the_same_bits() -> None:
    first, again = trained(BED, CPU, 2), trained(BED, CPU, 2)
    assert first == again and first.losses[0] != first.losses[1]


def judged(monkeypatch: pytest.MonkeyPatch, tried: Trained, exact: Trained) -> tuple[str, ...]:
    """The words of the check where the two came to this."""
    answers = iter((tried, exact))
    monkeypatch.setattr(golden, "trained", lambda *_: next(answers))
    return outcome_of(next(golden_checks()), BED).words


def test_losses_that_are_off_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    falling = Trained(tuple(5.0 - step / 20 for step in range(50)), "a")

    def off(step: int, by: float) -> Trained:
        losses = list(falling.losses)
        losses[step] *= 1 + by
        return dataclasses.replace(falling, losses=tuple(losses))

    assert judged(monkeypatch, falling, falling) == ()
    assert judged(monkeypatch, off(30, BOUND / 2), falling) == ()
    assert "all 50 steps" in judged(monkeypatch, off(30, 2 * BOUND), falling)[0]
    early = judged(monkeypatch, off(FIRST_STEPS - 1, 2 * FIRST_BOUND), falling)
    assert f"the first {FIRST_STEPS} steps" in early[0]
    assert judged(monkeypatch, off(30, float("nan")), falling)
    flat = Trained((5.0,) * 50, "a")
    assert "has not fallen" in judged(monkeypatch, flat, flat)[0]


@pytest.mark.slow
def test_fifty_steps_of_the_processor_are_its_own() -> None:
    for check in golden_checks():
        outcome = outcome_of(check, BED)
        assert outcome.grade == "sound", outcome.words
