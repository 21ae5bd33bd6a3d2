"""What one worker computes of another one's part: the same numbers, by whoever computes it."""

from __future__ import annotations

from pathlib import Path

from dougong.training.integrity.takeover import Takeover, computed_by, state_numbers
from tests.training.test_trainer import job_of, trainer_of


def test_the_only_one_of_its_kind_comes_to_its_own_numbers(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": "all"}), tmp_path)
    trainer.run_step(1)
    stepper = trainer.stepper
    before = state_numbers(stepper.parts)
    forwards = trainer._forwards
    first = stepper.gradients(2, forwards.of_step(2))
    numbers = computed_by(stepper.parts, stepper.parts.world.tally, first)
    takeover = Takeover(stepper, forwards, (0,))
    again = takeover.compute(2)
    assert again.numbers == numbers.numbers and numbers.numbers
    takeover.close()
    assert state_numbers(stepper.parts).numbers == before.numbers, "nothing has moved"
