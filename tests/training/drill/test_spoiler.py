"""What a drill does to the numbers of a step: another result from then on, and from that step alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import CorruptionError
from dougong.training.drill.spoiler import Victim, flip_bit
from dougong.training.trainer import Trainer
from tests.training.running import Order, run
from tests.training.session_drill import train_with
from tests.training.test_trainer import job_of, trainer_of

COMPUTED_ONCE = ("flip_gradient", "flip_activation")
"""Of the others nothing is committed: `tests/training/integrity/test_guard.py`."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_of_one_number_changes(dtype: torch.dtype) -> None:
    tensor = torch.full((2, 3), 1.5, dtype=dtype)
    flip_bit(tensor)
    assert tensor.isfinite().all() and (tensor != 1.5).sum() == 1
    flip_bit(tensor)
    assert (tensor == 1.5).all()


def ledgers(folder: Path, name: str | None) -> list[Any]:
    """The chained digests of three steps, in the second of which this happens."""
    folder.mkdir()
    trainer, _, messages = trainer_of(job_of(folder, steps=3), folder)
    for step in (1, 2, 3):
        if step == 2 and name is not None:
            victim_of(trainer).spoil(name)
        trainer.run_step(step)
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    return [fields["row"]["ledger"] for _, kind, fields in told if kind == "step_done"]


def victim_of(trainer: Trainer) -> Victim:
    parts = trainer.stepper.parts
    return Victim(parts.exchange, parts.share.replica, parts.share.optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTED_ONCE)
def test_a_flipped_bit_changes_the_step_and_those_after_it(tmp_path: Path, name: str) -> None:
    honest, spoilt = ledgers(tmp_path / "honest", None), ledgers(tmp_path / "spoilt", name)
    assert [one == other for one, other in zip(honest, spoilt, strict=True)] == [True, False, False]


def test_a_nan_is_noticed_before_a_weight_moves(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    victim_of(trainer).spoil("nan")
    with pytest.raises(CorruptionError, match="computed once more, every value is finite"):
        trainer.run_step(1)


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["east/0", "east/1", "east/2"])
def test_a_worker_of_any_role_can_be_spoilt(tmp_path: Path, worker: str) -> None:
    """Attention, experts, both."""
    outcome = run(Order(job_of(tmp_path), "AEB", tmp_path, train=train_with(worker, "nan", 2)))
    assert outcome.errors and {kind for kind, _ in outcome.errors.values()} == {"CorruptionError", "PeerError"}
