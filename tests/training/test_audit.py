"""What is computed once is computed again by another worker: whoever errs is named before the step is committed, and
nobody else is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dougong.control.worker_api import WorkerContext
from dougong.errors import CorruptionError, NumericsError
from dougong.parallel.execute.shard import ExpertShard
from dougong.training import session
from dougong.training.drill.spoiler import flip_bit
from dougong.training.results.reports import StepResult
from dougong.training.step import StepGradients
from tests.training.drill.test_spoiler import victim_of
from tests.training.running import Order, Outcome, run
from tests.training.session_drill import train_with
from tests.training.test_trainer import job_of, said, trainer_of


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


@dataclass(frozen=True)
class ErrsEachTime:
    """An entry: the experts of one worker have the same wrong bit in all that they put out."""

    worker: str

    def __call__(self, context: WorkerContext) -> None:
        if context.worker.name == self.worker:
            honest = ExpertShard.forward

            def forward(shard: ExpertShard, *given: Any, **named: Any) -> Any:
                outputs = honest(shard, *given, **named)
                flip_bit(outputs)
                return outputs

            ExpertShard.forward = forward  # type: ignore[method-assign, assignment]
        session.train(context)


@pytest.mark.parametrize("worker", ["east/0", "east/2"])
def test_a_device_that_errs_each_time_alike_is_named_by_a_third(worker: str, tmp_path: Path) -> None:
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    job = job_of(tmp_path, steps=2, checkpoint={"every": 0}, fault={"audit": "all"}, batch=batch)
    outcome = run(Order(job, "BBB", tmp_path, train=ErrsEachTime(worker)))
    (text,) = [text for kind, text in outcome.errors.values() if kind == "CorruptionError"]
    assert text.startswith("step 1: ") and f"({worker})" in text


def test_of_two_that_each_stick_to_their_own_both_are_named(tmp_path: Path) -> None:
    job = job_of(tmp_path, steps=2, checkpoint={"every": 0}, fault={"audit": "all"})
    outcome = run(Order(job, "BB", tmp_path, train=ErrsEachTime("east/1")))
    (text,) = {text for kind, text in outcome.errors.values() if kind == "CorruptionError"}
    assert "east/0" in text and "east/1" in text


def test_with_each_audit_another_worker_takes_the_part_over(tmp_path: Path) -> None:
    """Three healthy workers, and nobody is accused by either neighbour."""
    batch = {"lanes": 3, "microbatches": 2, "microbatch_size": 1}
    job = job_of(tmp_path, steps=4, checkpoint={"every": 0}, fault={"audit": "all"}, batch=batch)
    outcome = run(Order(job, "BBB", tmp_path))
    assert not outcome.errors and list(outcome.rows) == [1, 2, 3, 4]


def test_only_every_nth_step_is_computed_again_and_those_that_look_strange(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": 3}), tmp_path)
    audit = trainer.audit
    assert audit is not None
    looked: list[int] = []
    honest = audit.gradients

    def gradients(step: int, computed: StepGradients) -> None:
        looked.append(step)
        honest(step, computed)

    audit.gradients = gradients  # type: ignore[method-assign]
    for step in range(1, 6):
        trainer.run_step(step)
    assert looked == [3]
    result = StepResult(7, 3.0, 1.0, 0.1, (0.0,), False)
    assert not any(audit.wants(replace(result, loss=3.0 + number / 100)) for number in range(40))
    assert audit.wants(replace(result, loss=50.0)), "a spike leads to a look"


def test_a_flip_of_a_step_that_nobody_audits_is_not_seen(tmp_path: Path) -> None:
    """The negative control: the same flip as above."""
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": 3}), tmp_path)
    trainer.run_step(1)
    victim_of(trainer).spoil("flip_activation")
    trainer.run_step(2)
    trainer.run_step(3)


def test_a_nan_that_does_not_come_again_is_the_device_s(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": 100}), tmp_path)
    trainer.run_step(1)
    victim_of(trainer).spoil("nan")
    with pytest.raises(CorruptionError, match="step 2: rows of site 0 .*has other bits"):
        trainer.run_step(2)


@pytest.mark.parametrize(("where", "says"), [
    ("data", "computed again by other workers it is not finite either, with the batch before it is: look at the data"),
    ("weights", "computed again by other workers it is not finite either, nor with the batch before: the weights"),
])  # fmt: skip
def test_a_nan_that_comes_again_is_no_device_s(where: str, says: str, tmp_path: Path) -> None:
    """Neither with this batch alone, nor with any: the job's `fault.non_finite` says what follows."""
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": 100}), tmp_path)
    trainer.run_step(1)
    parts = trainer.stepper.parts
    model: Any = parts.share.replica.model
    bad: list[Any] = []  # what the first forward of step 2 is of

    def spoil(module: Any, arguments: Any, keywords: Any, output: Any) -> Any:
        bad.append(keywords["input_ids"])
        if where == "weights" or bad[0].equal(keywords["input_ids"]):
            output.loss = output.loss * float("nan")
        return output

    model.register_forward_hook(spoil, with_kwargs=True)
    with pytest.raises(NumericsError, match=says):
        trainer.run_step(2)


def test_a_step_that_is_left_out_is_told_with_what_the_audit_has_found(tmp_path: Path) -> None:
    fault = {"audit": "all", "non_finite": "skip"}
    trainer, _, messages = trainer_of(job_of(tmp_path, fault=fault), tmp_path)
    trainer.run_step(1)
    model: Any = trainer.stepper.parts.share.replica.model

    def spoil(module: Any, arguments: Any, output: Any) -> Any:
        output.loss = output.loss * float("nan")
        return output

    model.register_forward_hook(spoil)
    trainer.run_step(2)
    (skipped,) = said(messages, "update_skipped")
    assert skipped["where"].startswith("not finite: the loss of lane 0 micro-batch 0")
    assert skipped["where"].endswith("nor with the batch before: the weights, not the data")


def test_an_update_that_is_not_what_comes_of_its_gradients_is_seen(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, fault={"audit": "all"}), tmp_path)
    trainer.run_step(1)
    optimizer: Any = trainer.stepper.optimizer
    honest = optimizer.step

    def step(gradients: Any, rate: float) -> None:
        honest(gradients, rate)
        flip_bit(next(iter(trainer.stepper.parts.share.replica.masters.values())))

    optimizer.step = step
    with pytest.raises(CorruptionError, match="step 2: the weight of .*: two updates do not agree"):
        trainer.run_step(2)
