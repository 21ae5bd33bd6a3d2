"""What is computed once is computed again by another worker: whoever errs is named before the step is committed, and
nobody else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dougong.errors import CorruptionError
from tests.training.drill.test_spoiler import victim_of
from tests.training.running import Order, Outcome, run
from tests.training.session_drill import train_with
from tests.training.test_trainer import job_of, trainer_of


def audited(folder: Path, roles: str, worker: str, fault: str, **changes: Any) -> Outcome:
    """Three steps, in the second of which this happens to that worker."""
    job = job_of(folder, steps=3, checkpoint={"every": 0}, fault={"audit": "all"}, **changes)
    return run(Order(job, roles, folder, train=train_with(worker, fault, 2)))


def test_a_healthy_worker_is_not_accused(tmp_path: Path) -> None:
    trainer, _, messages = trainer_of(job_of(tmp_path, fault={"audit": "all"}), tmp_path / "a")
    honest, _, honest_messages = trainer_of(job_of(tmp_path), tmp_path / "b")
    for step in (1, 2, 3):
        trainer.run_step(step)
        honest.run_step(step)
    assert ledgers(messages) == ledgers(honest_messages)


def ledgers(messages: Any) -> list[str]:
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    return [fields["row"]["ledger"] for _, kind, fields in told if kind == "step_done"]


@pytest.mark.parametrize("fault", ["flip_activation", "flip_gradient"])
def test_a_worker_alone_finds_what_came_by_chance(fault: str, tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": "all"}), tmp_path)
    trainer.run_step(1)
    victim_of(trainer).spoil(fault)
    with pytest.raises(CorruptionError, match="step 2: .*computed again by another worker it has other bits") as caught:
        trainer.run_step(2)
    assert caught.value.accused == ("0",)


@pytest.mark.parametrize(("roles", "worker", "fault"), [
    ("BB", "east/1", "flip_activation"),
    ("BB", "east/0", "flip_gradient"),
    ("AEB", "east/1", "flip_activation"),
    ("AAEE", "east/3", "flip_gradient"),
])  # fmt: skip
def test_whoever_computes_wrongly_is_named(roles: str, worker: str, fault: str, tmp_path: Path) -> None:
    outcome = audited(tmp_path, roles, worker, fault, batch={"lanes": 4, "microbatches": 2, "microbatch_size": 1})
    assert list(outcome.rows) == [1]
    (text,) = [text for kind, text in outcome.errors.values() if kind == "CorruptionError"]
    assert text.startswith("step 2: ") and f"({worker})" in text
