"""A step that is not finite moves no weight: the run stops with its place, or leaves the step out, alike everywhere."""

from __future__ import annotations

import math
import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.repository import newest_valid
from dougong.data.windows import open_data
from dougong.errors import CorruptionError, NumericsError
from dougong.job.schema import Fault, Job
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.training.build import LedgerStart, StepOptions
from dougong.training.hooks import StepHook
from dougong.training.non_finite import SkippedSteps, validation_words, where
from dougong.training.results.reports import NotFinite, StepResult
from dougong.training.trainer import Trainer
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from tests.training.running import Order, run
from tests.training.spoiling import NAN, SpoiledExpert, SpoiledOutputs
from tests.training.test_trainer import job_of, said, trainer_of
from torch import Tensor

EXPERT = "model.layers.1.mlp.experts.down_proj[5]"
SKIP = {"non_finite": "skip"}


def result(is_finite: bool) -> StepResult:
    found = None if is_finite else NotFinite(((1, 0),), ())
    loss = 1.0 if is_finite else NAN
    return StepResult(1, loss, 1.0, 0.1, (0.0,), False, not_finite=found, is_skipped=not is_finite)


@pytest.mark.parametrize(
    ("fault", "steps", "expected"),
    [
        ({}, [True, False], [False, True]),
        (SKIP, [False, False, False, True], [False, False, False, False]),
        (SKIP, [False] * 4, [False, False, False, True]),
        (SKIP | {"max_skips": 1}, [False, True, False, False], [False, False, False, True]),
    ],
    ids=["stop", "skip", "too many in a row", "a finite one between"],
)
def test_when_a_run_stops(fault: dict[str, Any], steps: list[bool], expected: list[bool]) -> None:
    skipped = SkippedSteps(Fault.model_validate(fault))
    assert [skipped.must_stop(result(is_finite)) for is_finite in steps] == expected


def test_what_is_not_finite_in_words() -> None:
    gradients = tuple(f"model.layers.{i}.mlp.gate.weight" for i in (10, 2, 1, 0))
    assert where(NotFinite(((1, 0),), ())) == "not finite: the loss of lane 1 micro-batch 0"
    assert where(NotFinite((), gradients)) == (
        "not finite: the gradient of model.layers.0.mlp.gate.weight, model.layers.1.mlp.gate.weight, "
        "model.layers.2.mlp.gate.weight and 1 more"
    )
    assert validation_words(7, {(0, 0): 5.0, (1, 0): NAN, (1, 1): math.inf}) == (
        "step 7: the validation loss is not finite: batch 1 of lane 0 (nan), batch 1 of lane 1 (inf)"
    )


# A step


class Poison(StepHook):
    """Fills one tensor's gradient with `value` in step 2, on the worker that owns the tensor."""

    def __init__(self, name: str, value: float = NAN) -> None:
        self._name, self._value, self._step = name, value, 0

    def begin_step(self, step: int) -> None:
        self._step = step

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        if self._step == 2 and self._name in gradients:
            gradients[self._name].fill_(self._value)


def state_of(rig: Rig) -> dict[str, Tensor]:
    """Weights, compute copies, biases and the optimizer's state."""
    state = {name: tensor.clone() for name, tensor in rig.replica.masters.items()}
    state |= {f"copy of {name}": tensor.detach().clone() for name, tensor in rig.replica.copies}
    state |= {f"{kind} of {name}": value.clone() for kind, name, value in rig.stepper.optimizer.state()}
    return state


@pytest.mark.parametrize(("value", "clip_norm"), [(NAN, 1.0), (math.inf, 1.0), (math.inf, None), (1e30, 1.0)])
def test_a_gradient_that_is_not_finite_moves_nothing(value: float, clip_norm: float | None) -> None:
    """1e30 is finite, its norm is not: a scale of 1 over infinity would have thrown the whole gradient away."""
    job = make_job("deepseek_v3", optimizer={"lr": 1e-2, "clip_norm": clip_norm}, router={"bias_rate": 0.1})
    rig = make_rig(job, options=StepOptions(hooks=(Poison(EXPERT, value),)))
    rig.stepper.run(1, rig.forwards(1))
    before = state_of(rig)
    assert any("e_score_correction_bias" in name for name in before)
    bad = rig.stepper.run(2, rig.forwards(2))
    assert bad.not_finite == NotFinite((), (EXPERT,)) and math.isfinite(bad.loss)
    after = state_of(rig)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert int(rig.load.counts.sum()) > 0, "its load is told all the same"
    assert rig.stepper.run(3, rig.forwards(3)).not_finite is None
    assert not all(torch.equal(before[name], tensor) for name, tensor in state_of(rig).items())


def ledger_rows(world: World, plan: Plan, job: Job, folder: Path) -> list[Any]:
    options = StepOptions(hooks=(Poison(EXPERT),), ledger=LedgerStart(folder))
    rig = make_rig(job, plan, world, options)
    rows = []
    for step in (1, 2, 3):
        found = rig.stepper.run(step, rig.forwards(step)).not_finite
        rows.append((found, rig.stepper.parts.hooks.metrics(False)["ledger"]))
    return rows


def test_a_skipped_step_is_the_same_in_every_layouts_ledger(tmp_path: Path) -> None:
    """The bits of a NaN are the hardware's and the order's, so they are left out of the digest."""
    job = make_job()
    alone = ledger_rows(World.alone(), plan_for(job), job, tmp_path / "alone")
    assert [found for found, _ in alone] == [None, NotFinite((), (EXPERT,)), None]
    plan = plan_for(job, "AEB")
    for rows in run_workers(ledger_rows, plan, job, tmp_path / "three"):
        assert rows == alone


# A run of one worker


def spoiled(tmp_path: Path, spoil: SpoiledOutputs, **changes: Any) -> tuple[Trainer, queue.Queue[Any]]:
    trainer, _, messages = trainer_of(job_of(tmp_path, **changes), tmp_path)
    spoil.prepare(trainer)
    return trainer, messages


def stopped(trainer: Trainer, step: int, kind: type[Exception] = NumericsError) -> str:
    """The words with which the run stops at this step."""
    for earlier in range(1, step):
        trainer.run_step(earlier)
    with pytest.raises(kind) as error:
        trainer.run_step(step)
    return str(error.value)


@pytest.mark.parametrize(("determinism", "precision"), [("layout", "float32"), ("off", "bfloat16")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_place(
    tmp_path: Path, determinism: str, precision: str
) -> None:
    changes = {"determinism": determinism, "precision": precision, "checkpoint": {"every": 1}}
    trainer, messages = spoiled(tmp_path, SpoiledOutputs((3,)), **changes)
    text = stopped(trainer, 3)
    assert text.startswith("step 3: loss nan, gradient norm nan, so no weight was moved; ")
    assert "the first value that is not finite: lane 1, micro-batch 0, forward, model.layers.1.mlp.experts, exp" in text
    assert "not finite: the loss of lane 1 micro-batch 0; the gradient of lm_head.weight, " in text
    assert "all weights are finite, the largest is " in text and "-o fault.non_finite=skip" in text
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    rows = [fields["row"] for _, kind, fields in told if kind == "step_done"]
    assert [row["step"] for row in rows] == [1, 2, 3] and math.isnan(rows[2]["loss"])
    assert [row.get("skipped") for row in rows] == [None, None, True]
    assert "ledger" not in rows[2] and "counts" in rows[2]["load"], "nothing is promised of a step that was not done"
    assert [fields["step"] for _, kind, fields in told if kind == "part_durable"] == [1, 2], "durable before the error"


def test_a_step_that_is_finite_when_it_is_computed_again_was_the_machines_fault(tmp_path: Path) -> None:
    trainer, _ = spoiled(tmp_path, SpoiledOutputs((1,), times=1))
    text = stopped(trainer, 1, CorruptionError)
    assert text.startswith("step 1: loss nan, gradient norm nan; not finite: the loss of lane 1 micro-batch 0; ")
    assert text.endswith("; computed once more, every value is finite (0); no weight was moved by it")


def test_a_search_that_fails_hides_nothing(tmp_path: Path) -> None:
    trainer, _ = spoiled(tmp_path, SpoiledOutputs((1,)))
    executor: Any = trainer.stepper.parts.executor
    shard: Any = trainer.stepper.parts.share.shard
    honest = executor.train

    def train(*arguments: Any) -> Any:
        losses = honest(*arguments)
        shard.forward = None  # the next one finds no experts
        return losses

    executor.train = train
    text = stopped(trainer, 1)
    assert "not finite: the loss of lane 1 micro-batch 0; " in text
    assert "the place was not found: TypeError: 'NoneType' object is not callable; " in text


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    parts = trainer.stepper.parts
    parts.share.replica.masters["model.layers.2.input_layernorm.weight"][3] = math.inf
    assert parts.guard is not None
    parts.guard.note()  # else it is a number that has changed by itself
    text = stopped(trainer, 1)
    assert "first value that is not finite: lane 0, micro-batch 0, forward, segment 2 (after model.layers.1" in text
    assert "weights or optimizer state are not finite: model.layers.2.input_layernorm.weight;" in text


def test_skipping_leaves_the_step_out_and_tells_it(tmp_path: Path) -> None:
    trainer, messages = spoiled(tmp_path, SpoiledOutputs((2, 3)), fault=SKIP, checkpoint={"every": 2})
    for step in range(1, 6):
        trainer.run_step(step)
    trainer.finish()
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    skips = [fields for _, kind, fields in told if kind == "update_skipped"]
    assert [(skip["step"], skip["in_a_row"]) for skip in skips] == [(2, 1), (3, 2)]
    assert skips[0]["where"].startswith("not finite: the loss of lane 1 micro-batch 0; the gradient of ")
    data = open_data(trainer.stepper.parts.share.blueprint.job, None)
    first, last = data.samples(2)
    assert (skips[0]["first_sample"], skips[0]["last_sample"], skips[0]["times"]) == (first, last, 2)
    assert list(skips[0]["windows"]) == data.windows(2, lane=1, microbatch=0), "those that were not finite"
    rows = [fields["row"] for _, kind, fields in told if kind == "step_done"]
    assert rows[0]["checksums"]["weights"] == rows[1]["checksums"]["weights"] == rows[2]["checksums"]["weights"]
    assert [row.get("skipped") for row in rows] == [None, True, True, None, None]
    durable = [fields["step"] for _, kind, fields in told if kind == "part_durable"]
    assert durable == [4, 5], "a skipped step has nothing new to save"


def test_a_step_that_a_machine_has_computed_wrongly_is_right_the_second_time(tmp_path: Path) -> None:
    """Nothing is left out then, and the bits are those of a run in which nothing has happened."""
    (tmp_path / "honest").mkdir()
    honest, _, _ = trainer_of(job_of(tmp_path, fault=SKIP), tmp_path / "honest")
    trainer, messages = spoiled(tmp_path, SpoiledOutputs((2,), times=1), fault=SKIP)
    for step in (1, 2, 3):
        honest.run_step(step)
        trainer.run_step(step)
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    assert [fields["step"] for _, kind, fields in told if kind == "step_repeated"] == [2]
    assert "update_skipped" not in [kind for _, kind, _ in told]
    parts = (honest.stepper.parts, trainer.stepper.parts)
    assert parts[0].ledger is not None and parts[1].ledger is not None
    assert parts[0].ledger.digest == parts[1].ledger.digest


def test_a_step_that_was_left_out_is_left_out_again_whatever_it_gives_now(tmp_path: Path) -> None:
    """As after a recovery, on other machines; and it is computed once alone."""
    trainer, _, messages = trainer_of(job_of(tmp_path, fault=SKIP), tmp_path, skips=(2,))
    for step in (1, 2, 3):
        trainer.run_step(step)
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    (skip,) = [fields for _, kind, fields in told if kind == "update_skipped"]
    assert (skip["step"], skip["where"], skip["times"]) == (2, "as it was before", 1)
    rows = [fields["row"] for _, kind, fields in told if kind == "step_done"]
    assert rows[0]["checksums"]["weights"] == rows[1]["checksums"]["weights"] != rows[2]["checksums"]["weights"]
    assert [row.get("skipped") for row in rows] == [None, True, None]


def test_a_job_that_stops_at_such_steps_keeps_to_no_list(tmp_path: Path) -> None:
    trainer, _, messages = trainer_of(job_of(tmp_path), tmp_path, skips=(1,))
    trainer.run_step(1)
    assert said(messages, "update_skipped") == []


def test_too_many_skips_in_a_row_stop_the_run(tmp_path: Path) -> None:
    trainer, messages = spoiled(tmp_path, SpoiledOutputs((1, 2)), fault=SKIP | {"max_skips": 1})
    text = stopped(trainer, 2)
    assert "; 1 in a row before it were skipped (fault.max_skips); " in text
    assert [message["step"] for message in said(messages, "update_skipped")] == [1]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_validation_loss_that_is_not_finite_is_told(tmp_path: Path, policy: str) -> None:
    """The update was too large: the step's own loss and gradient are finite, what it leaves is of no use."""
    data = {
        **job_of(tmp_path).data.model_dump(exclude_none=True),
        "validation": {"fraction": 0.2, "every": 1, "batches": 1},
    }
    job = job_of(
        tmp_path, data=data, optimizer={"lr": 3e38}, checkpoint={"every": 1}, fault={"non_finite": policy}, steps=3
    )
    trainer, _, messages = trainer_of(job, tmp_path)
    if policy == "stop":
        text = stopped(trainer, 1)
        assert text == (
            "step 1: the validation loss is not finite: batch 0 of lane 0 (nan), batch 0 of lane 1 (nan); no "
            "checkpoint is made of its weights"
        )
    else:
        trainer.run_step(1)
    told = [messages.get_nowait() for _ in range(messages.qsize())]
    assert math.isnan(next(fields["row"]["val_loss"] for _, kind, fields in told if kind == "step_done"))
    warnings = [fields["text"] for _, kind, fields in told if kind == "worker_warning"]
    assert ("part_durable" in [kind for _, kind, _ in told], bool(warnings)) == (False, True) or policy == "stop"


# Several workers


def test_one_experts_bad_gradient_on_one_worker_stops_all_of_them(tmp_path: Path) -> None:
    """All name the same place, the step is recorded, and the checkpoint before it is what a resume finds."""
    job = job_of(tmp_path, checkpoint={"every": 1}, steps=4)
    outcome = run(Order(job, "AEB", tmp_path, train=SpoiledExpert(3, 5).train))
    assert {worker: kind for worker, (kind, _) in outcome.errors.items()} == dict.fromkeys(
        ("east/0", "east/1", "east/2"), "NumericsError"
    )
    (text,) = {text for _, text in outcome.errors.values()}
    assert f"the first value that is not finite: all lanes, micro-batch 1: the gradient of {EXPERT};" in text
    assert f"not finite: the gradient of {EXPERT};" in text
    assert list(outcome.rows) == [1, 2, 3] and math.isnan(outcome.rows[3]["grad_norm"])
    assert math.isfinite(outcome.rows[3]["loss"])
    assert list(outcome.committed) == [1, 2]
    assert newest_valid(tmp_path / "checkpoints") == outcome.committed[2]
