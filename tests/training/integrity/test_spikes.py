"""Which losses are worth a second look."""

from __future__ import annotations

import random

from dougong.training.integrity.spikes import LEAST, LossWatch


def test_a_loss_that_falls_and_shivers_has_no_spikes() -> None:
    chance = random.Random(3)
    watch = LossWatch()
    losses = [10 * 0.99**step + chance.gauss(0, 0.05) for step in range(500)]
    assert not any(watch.is_spike(loss) for loss in losses)


def test_one_that_jumps_is_a_spike_once() -> None:
    watch = LossWatch()
    assert not any(watch.is_spike(3.0 + 0.01 * (step % 5)) for step in range(LEAST))
    assert watch.is_spike(9.0)
    assert not watch.is_spike(3.0) and not watch.is_spike(float("nan"))


def test_the_first_steps_say_nothing_of_what_is_usual() -> None:
    watch = LossWatch()
    assert not any(watch.is_spike(loss) for loss in (1.0, 100.0, 1.0, 1000.0))
