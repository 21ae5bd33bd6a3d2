"""A trainer in this process: what is due after which step, and what it says of each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dougong.accelerators import staging
from dougong.checkpoint.snapshot import Saver
from dougong.control.worker_api import Kept, WorkerContext
from dougong.errors import PeerError
from dougong.job.schema import Job
from dougong.parallel.comm.world import World
from dougong.training.memory.state_memory import StateMemory
from dougong.training.results.kept_rows import KeptRows
from dougong.training.state import state_of
from dougong.training.trainer import JobForm, Trainer, build_trainer
from tests.jobs import make_job
from tests.training.running import HandControl, lay_out, token_file

COUNTER_BYTES = 4
VALIDATION = {"fraction": 0.2, "every": 3, "batches": 1}


def job_of(folder: Path, **changes: Any) -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16, "validation": VALIDATION}
    return make_job(**{"data": data, "steps": 5, "checkpoint": {"every": 2}, **changes})


class BreaksOff(HandControl):
    """A peer is lost as validation begins."""

    def progress(self, step: int, phase: str, operation: int) -> None:
        super().progress(step, phase, operation)
        if phase == "validate":
            raise PeerError("the connection to worker 1 (east/1) broke")


def trainer_of(
    job: Job,
    run_dir: Path,
    stop_at: int | None = None,
    kept: Kept | None = None,
    memory: StateMemory | None = None,
    control_of: Callable[..., HandControl] = HandControl,
    **more: Any,
) -> tuple[Trainer, HandControl, queue.Queue[Any]]:
    plan = lay_out(job, "B")
    messages: queue.Queue[Any] = queue.Queue()
    control = control_of("east/0", messages, stop_at)
    context = WorkerContext(
        job=job,
        plan=plan,
        worker=plan.workers[0],
        generation=more.pop("generation", 1),
        run_dir=run_dir,
        resume=None,
        address="127.0.0.1",
        drills=(),
        control=control,
        kept=kept or Kept(),
        **more,
    )
    return build_trainer(context, World.alone(), memory=memory), control, messages


def said(messages: queue.Queue[Any], kind: str) -> list[dict[str, Any]]:
    """The fields of all messages of a kind so far; the others are gone."""
    found = [messages.get_nowait() for _ in range(messages.qsize())]
    return [fields for _, known, fields in found if known == kind]


def test_what_is_due_after_each_step(tmp_path: Path) -> None:
    """Checkpoints after 2, 4 and the last one; validation after 3 and the last one."""
    trainer, _, messages = trainer_of(job_of(tmp_path), tmp_path)
    assert trainer.first_step == 1
    assert not any(trainer.run_step(step).stop for step in range(1, 6))
    trainer.finish()
    rows = [message["row"] for message in said(messages, "step_done")]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "val_loss" in row] == [3, 5]
    assert [row["step"] for row in rows if "counts" in row["load"]] == [2, 4, 5]


def taken_for_saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each piece of staging memory, as it is taken."""
    taken, honest = list[int](), staging.host_memory

    def counted(num_bytes: int, device: Any) -> Any:
        taken.append(num_bytes)
        return honest(num_bytes, device)

    monkeypatch.setattr(staging, "host_memory", counted)
    return taken


def test_memory_of_saves_is_there_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, as soon as the thread beside has taken it; the first save takes the counters of updates alone, which
    begin with the first one."""
    taken = taken_for_saves(monkeypatch)
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    for thread in threading.enumerate():
        if thread.name == "checkpoint-memory":
            thread.join(60)
    share = trainer.stepper.parts.share
    state = state_of(share.replica, share.optimizer)
    assert sum(taken) == sum(item.tensor.numel() * item.tensor.element_size() for item in state) > 0
    taken.clear()
    for step in range(1, 6):
        trainer.run_step(step)
    trainer.finish()
    assert set(taken) <= {COUNTER_BYTES}


def test_what_nobody_has_reserved_is_taken_by_the_first_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(Saver, "reserve", lambda saver, tensors: None)
    taken = taken_for_saves(monkeypatch)
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    trainer.run_step(1)
    assert taken == []
    trainer.run_step(2)
    trainer.finish()
    assert max(taken) > COUNTER_BYTES


def test_a_part_says_the_ledgers_digest_of_its_own_step(tmp_path: Path) -> None:
    """Also where the next steps have been made before the part is durable."""
    trainer, _, messages = trainer_of(job_of(tmp_path), tmp_path)
    digests = {}
    for step in range(1, 6):
        trainer.run_step(step)
        assert trainer.stepper.parts.ledger is not None
        digests[step] = trainer.stepper.parts.ledger.digest
    trainer.finish()
    parts = said(messages, "part_durable")
    assert {part["step"]: part["part"]["ledger"] for part in parts} == {step: digests[step] for step in (2, 4, 5)}


def test_a_row_has_its_keys_in_their_order(tmp_path: Path) -> None:
    job = job_of(tmp_path, router={"global_loss": 0.1}, steps=1)
    trainer, _, messages = trainer_of(job, tmp_path)
    trainer.run_step(1)
    trainer.finish()
    (row,) = [message["row"] for message in said(messages, "step_done")]
    assert list(row) == [
        "step", "loss", "tokens", "step_s", "tokens_per_s", "grad_norm", "lr", "islands",
        "load", "balance_loss", "ledger", "checksums", "val_loss", "validate_s",
    ]  # fmt: skip


def test_every_worker_keeps_its_rows_for_a_generation_that_goes_on_behind_one_that_nobody_told(tmp_path: Path) -> None:
    """Also the time of a save, which the next row tells."""
    kept = Kept()
    trainer, _, messages = trainer_of(job_of(tmp_path), tmp_path, kept=kept)
    for step in (1, 2, 3):
        trainer.run_step(step)
    rows = [message["row"] for message in said(messages, "step_done")]
    assert [row["step"] for row in rows if "save_s" in row] == [3]
    assert [row["step"] for row in rows if row.get("write_s")] == [3]
    assert rows[2]["write_s"] <= rows[2]["step_s"]
    found = kept.get(KeptRows)
    assert found is not None
    offered = found.begin(recorded=1, step=3)
    assert [row["step"] for row in offered] == [2, 3]
    assert offered[-1] == {"generation": 1, **rows[-1]}


@pytest.mark.parametrize("step", [3, 5])
def test_validation_that_a_fault_cuts_short_is_made_up_by_the_next_generation(step: int, tmp_path: Path) -> None:
    """After step 3, and after the last one: the same loss, and it completes the step's row."""
    job = job_of(tmp_path, fault={"snapshots": {"replicas": 1}}, checkpoint={"every": 3})
    whole, _, messages = trainer_of(job, tmp_path / "whole")
    for number in range(1, step + 1):
        whole.run_step(number)
    expected = [message["row"] for message in said(messages, "step_done")][-1]
    kept, memory = Kept(), StateMemory(job.fault.snapshots)
    first, _, _ = trainer_of(job, tmp_path, None, kept, memory)
    for number in range(1, step):
        first.run_step(number)
    memory.leave()
    again = {"kept": kept, "memory": memory, "recorded": step - 1}
    broken, _, _ = trainer_of(job, tmp_path, control_of=BreaksOff, generation=2, **again)
    with pytest.raises(PeerError):
        broken.run_step(step)
    memory.leave()
    made_up, _, messages = trainer_of(job, tmp_path, generation=3, **again)
    assert made_up.first_step == step + 1
    told = {kind: fields for _, kind, fields in [messages.get() for _ in range(messages.qsize())]}
    assert told["state_fetched"]["validates"]
    (row,) = told["state_fetched"]["rows"]
    assert row["step"] == step and "val_loss" not in row and row["ledger"] == expected["ledger"]
    assert (told["step_validated"]["step"], told["step_validated"]["loss"]) == (step, expected["val_loss"])
    memory.leave()
    _, _, messages = trainer_of(job, tmp_path, generation=4, **{**again, "recorded": step})
    assert not said(messages, "step_validated"), "once it is told, it is done"


def test_a_stop_saves_and_finishing_saves_nothing_twice(tmp_path: Path) -> None:
    trainer, control, messages = trainer_of(job_of(tmp_path, checkpoint={"every": 0}), tmp_path, stop_at=2)
    assert [trainer.run_step(step).stop for step in (1, 2)] == [False, True]
    trainer.finish()
    assert [part["step"] for part in said(messages, "part_durable")] == [2]
    assert control.phases[-2:] == ["checkpoint", "idle"]


def test_finishing_saves_what_no_checkpoint_has(tmp_path: Path) -> None:
    trainer, _, messages = trainer_of(job_of(tmp_path, checkpoint={"every": 0}), tmp_path)
    trainer.run_step(1)
    trainer.finish()
    assert [part["step"] for part in said(messages, "part_durable")] == [1]


def test_phases_have_their_seconds(tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path), tmp_path)
    for step in (1, 2, 3):
        trainer.run_step(step)
    seconds = trainer.stepper.parts.phases.seconds
    assert list(seconds) == ["forward", "backward", "exchange", "update", "validate"], "no checkpoint after step 3"
    assert all(value > 0 for value in seconds.values())


@pytest.mark.parametrize("determinism", ["layout", "off"])
def test_there_is_a_ledger_unless_nothing_is_promised(determinism: str, tmp_path: Path) -> None:
    trainer, _, _ = trainer_of(job_of(tmp_path, determinism=determinism), tmp_path)
    assert (trainer.stepper.parts.ledger is None) == (determinism == "off")
    assert trainer.sites == tuple(f"model.layers.{i}.mlp.experts" for i in range(3))


def test_a_process_keeps_the_form_of_its_model_and_its_data_and_no_weights(tmp_path: Path) -> None:
    """In its next generation; another job has its own."""
    kept, job = Kept(), job_of(tmp_path)
    first, _, _ = trainer_of(job, tmp_path, kept=kept)
    form = kept.get(JobForm)
    first.run_step(1)
    second, _, messages = trainer_of(job, tmp_path, kept=kept)
    assert form is not None and kept.get(JobForm) is form
    assert second.stepper.parts.share.blueprint is first.stepper.parts.share.blueprint
    mine, before = (trainer.stepper.parts.share.replica.masters for trainer in (second, first))
    assert mine.keys() == before.keys() and not any(mine[n].data_ptr() == before[n].data_ptr() for n in mine)
    second.run_step(1)
    (again,) = [message["row"]["ledger"] for message in said(messages, "step_done")]
    assert first.stepper.parts.ledger is not None and again == first.stepper.parts.ledger.digest
    trainer_of(job_of(tmp_path, steps=6), tmp_path, kept=kept)
    assert kept.get(JobForm) is not form
