"""What a worker holds between two updates: every bit of it counts, at any place."""

from __future__ import annotations

import random

import pytest
import torch
from dougong.errors import CorruptionError
from dougong.training.integrity.held_state import HeldState
from dougong.training.state import held_state_of
from tests.jobs import Rig, make_job, make_rig

TRIALS = 60


def state_of(rig: Rig) -> HeldState:
    return held_state_of(rig.replica, rig.stepper.optimizer)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_flipped_bit_of_it_is_seen_and_none_that_was_flipped_back(precision: str) -> None:
    """Weights, moments, and in half precision the copies that compute: all of them are looked at."""
    rig = make_rig(make_job(precision=precision))
    rig.stepper.run(1, rig.forwards(1))
    state, chance = state_of(rig), random.Random(1)
    honest, tensors = state.sums(), dict(state.tensors())
    kinds = {group for group, _ in tensors}
    assert {"model", "exp_avg", "exp_avg_sq", "step"} <= kinds and ("compute copy" in kinds) == (precision != "float32")
    for key in chance.sample(sorted(tensors), TRIALS):
        data = tensors[key].detach().reshape(-1).view(torch.uint8)
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        data[place] ^= bit
        changed = {other for other, value in state.sums().items() if value != honest[other]}
        data[place] ^= bit
        assert changed == {key}
    assert state.sums() == honest


def test_a_flip_in_a_compute_copy_ends_the_step() -> None:
    rig = make_rig(make_job(precision="bfloat16"))
    rig.stepper.run(1, rig.forwards(1))
    name, copy = next(iter(rig.replica.leaves))
    copy.detach().view(torch.int16).view(-1)[0] ^= 4
    with pytest.raises(CorruptionError, match=f"step 2: the compute copy of {name} changed in memory"):
        rig.stepper.run(2, rig.forwards(2))
