"""What one worker computes of another one's part: the same numbers, by whoever computes it."""

from __future__ import annotations

from dougong.training.takeover import Takeover, computed_by, state_numbers
from tests.jobs import RigForwards, make_job, make_rig


def test_the_only_one_of_its_kind_comes_to_its_own_numbers() -> None:
    rig = make_rig(make_job())
    rig.run(1)
    parts = rig.stepper.parts
    before = state_numbers(parts)
    parts.world.tally.begin()
    first = computed_by(parts, parts.world.tally, rig.stepper.gradients(2, rig.forwards(2)))
    takeover = Takeover(rig.stepper, RigForwards(rig), (0,))  # type: ignore[arg-type]
    assert takeover.compute(2).numbers == first.numbers and first.numbers
    takeover.close()
    assert state_numbers(parts).numbers == before.numbers, "nothing has moved"
