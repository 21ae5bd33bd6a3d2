"""A checkpoint there and back; a bit that changes on the way is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, outcome_of
from dougong.conform.steps import saving
from dougong.conform.steps.saving import State, saving_checks, state_on_host
from dougong.training.step import Stepper


def test_a_checkpoint_goes_there_and_back(tmp_path: Path) -> None:
    there, _ = saving_checks()
    outcome = outcome_of(there, Bed(Cpu(), CPU, tmp_path))
    assert outcome.grade == "sound", outcome.words
    assert (tmp_path / "from-cpu").is_dir()


@pytest.mark.slow
def test_another_bit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []

    def flipped(stepper: Stepper) -> State:
        state = state_on_host(stepper)
        if answers:
            state["model", "model.norm.weight"].view(torch.int32)[3] ^= 1
        answers.append(state)
        return state

    monkeypatch.setattr(saving, "state_on_host", flipped)
    there, _ = saving_checks()
    outcome = outcome_of(there, Bed(Cpu(), CPU, tmp_path))
    assert outcome.words == ("other bits were read of model model.norm.weight (1 in all)",)
