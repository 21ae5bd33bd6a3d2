"""The life of workers: real processes train, save, stop, resume elsewhere, and start from a Hugging Face folder."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.verify import verify
from dougong.data.windows import open_data
from dougong.job.load import ResolvedJob
from dougong.job.schema import Job
from dougong.launcher.decay import with_decay_end
from dougong.models.sites import find_sites
from dougong.models.ties import break_ties_by_index
from tests.families import config_values, tiny_config
from tests.jobs import make_job
from tests.training.running import Order, Outcome, digests, lay_out, run, token_file

STEPS = 6


@functools.cache
def trained_job(folder: Path, family: str, precision: str = "float32", **changes: Any) -> Job:
    data = {"tokens": str(token_file(folder)), "sequence_length": 16}
    data["validation"] = {"fraction": 0.2, "every": 3, "batches": 2}
    return make_job(
        model={"family": family, "config": config_values(family, **changes)},
        data=data,
        batch={"lanes": 3, "microbatches": 2, "microbatch_size": 1},
        steps=STEPS,
        schedule={"name": "cosine", "warmup_steps": 2},
        checkpoint={"every": 2},
        precision=precision,
    )


CASES = {
    # Dropout needs the random streams, longcat_flash the rows of experts that compute nothing, deepseek_v32 tensors
    # that are never updated, bfloat16 the masters.
    "qwen3_moe": {"attention_dropout": 0.1},
    "longcat_flash": {"precision": "bfloat16"},
    "deepseek_v32": {"tie_word_embeddings": True},
}


@pytest.fixture(scope="module", params=CASES)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Outcome]:
    """Six steps on two workers, never stopped."""
    folder = tmp_path_factory.mktemp(request.param)
    job = trained_job(folder, request.param, **CASES[request.param])
    return job, run(Order(job, "BB", folder / "run"))


def test_a_run_reports_every_step_and_commits_what_is_due(unbroken: tuple[Job, Outcome]) -> None:
    job, outcome = unbroken
    assert not outcome.errors and list(outcome.rows) == list(range(1, STEPS + 1))
    assert list(outcome.committed) == [2, 4, 6]
    assert all(verify(path).ok for path in outcome.committed.values())
    assert [s for s, row in outcome.rows.items() if "val_loss" in row] == [3, 6]
    row = outcome.rows[1]
    assert row["tokens"] == 3 * 2 * 16 and row["islands"].keys() == {"east"}
    assert set(row["islands"]["east"]) >= {"compute_s", "exchange_s"} and row["step_s"] > 0
    assert outcome.rows[2]["lr"] == pytest.approx(job.optimizer.lr)
    json.dumps(row)


def test_workers_say_what_they_do(unbroken: tuple[Job, Outcome]) -> None:
    _, outcome = unbroken
    for phases in outcome.phases.values():
        assert phases[0] == "start" and phases[-2:] == ["checkpoint", "idle"]
        first = phases.index("forward")
        assert phases[first : first + 6] == ["forward", "backward", "forward", "backward", "exchange", "update"]
        assert phases.count("validate") == 2


def test_no_worker_holds_or_saves_experts_that_it_does_not_own(unbroken: tuple[Job, Outcome]) -> None:
    job, outcome = unbroken
    plan = lay_out(job, "BB")
    for worker in plan.workers:
        state = outcome.parts[STEPS, worker.name]["state"]
        saved = {int(name[:-1].rpartition("[")[2]) for _, name, _ in state if name.endswith("]")}
        owned = {e for own in worker.experts for e in own}
        idle = {8, 9, 10, 11} if job.model.family == "longcat_flash" and 7 in owned else set()
        assert saved == owned | idle
        assert {n for g, n, _ in state if g == "model" and not n.endswith("]")} == {
            n for n, owner in plan.owners.items() if owner == worker.rank
        }


@pytest.mark.parametrize(("step", "roles"), [(4, "BB"), (2, "AEB")], ids=["same workers", "other workers"])
def test_resuming_gives_the_unbroken_runs_bits(
    unbroken: tuple[Job, Outcome], tmp_path: Path, step: int, roles: str
) -> None:
    job, whole = unbroken
    resumed = run(Order(job, roles, tmp_path, whole.committed[step], generation=2))
    assert resumed.series() == {s: values for s, values in whole.series().items() if s > step}
    for later, path in resumed.committed.items():
        assert digests(path) == digests(whole.committed[later]), later
    assert list(resumed.committed) == [s for s in (4, 6) if s > step]


def test_a_run_that_goes_on_with_more_steps_has_the_bits_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    """Its decay stays where it was: the steps that are added have the rate at which it ended."""
    whole_job = trained_job(tmp_path, "qwen3_moe")
    short = with_decay_end(ResolvedJob(whole_job.model_copy(update={"steps": 4}), {})).job
    longer = short.model_copy(update={"steps": STEPS})
    first = run(Order(short, "B", tmp_path / "first"))
    resumed = run(Order(longer, "B", tmp_path / "resumed", first.committed[4], generation=2))
    whole = run(Order(longer, "B", tmp_path / "whole"))
    steps = {step: values[:3] for step, values in (first.series() | resumed.series()).items()}
    assert steps == {step: values[:3] for step, values in whole.series().items()}
    assert digests(resumed.committed[STEPS]) == digests(whole.committed[STEPS])
    rates = [whole.rows[step]["lr"] for step in range(1, STEPS + 1)]
    assert rates[3:] == [rates[3]] * 3 and rates[3] < rates[2]


def test_a_fresh_run_on_one_worker_has_the_same_bits(unbroken: tuple[Job, Outcome], tmp_path: Path) -> None:
    job, whole = unbroken
    alone = run(Order(job, "B", tmp_path))
    assert alone.series() == whole.series()
    assert digests(alone.committed[STEPS]) == digests(whole.committed[STEPS])


def test_the_committed_model_folder_gives_the_same_loss_in_transformers(unbroken: tuple[Job, Outcome]) -> None:
    """The loss of step 5 is that of the weights after step 4: to 1e-6 in float32 (order of additions), 1 % where the
    run computes in bfloat16. Dropout, where the job has it, is switched off: there the loss is another."""
    from transformers import AutoModelForCausalLM

    job, outcome = unbroken
    model = AutoModelForCausalLM.from_pretrained(outcome.committed[4] / "model")
    assert model.dtype == torch.float32
    break_ties_by_index(model, find_sites(model))  # deepseek_v32's indexer has scores that are equal
    loss = loss_in_transformers(model, job, 5)
    dropout = "attention_dropout" in job.model.config
    tolerance = 1e-6 if job.precision == "float32" and not dropout else 1e-2
    assert loss == pytest.approx(outcome.rows[5]["loss"], rel=tolerance)
    assert not dropout or loss != pytest.approx(outcome.rows[5]["loss"], rel=1e-6), "dropout was on"


def loss_in_transformers(model: Any, job: Job, step: int) -> float:
    """Mean loss of a step's micro-batches."""
    data = open_data(job, 256)
    losses = []
    for lane in range(job.batch.lanes):
        for microbatch in range(job.batch.microbatches):
            ids = torch.from_numpy(data.batch(step, lane, microbatch))
            with torch.no_grad():
                losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("asked", ["east/0", pytest.param("east/1", marks=pytest.mark.slow)])
def test_a_stop_ends_all_after_the_step_with_a_checkpoint(tmp_path: Path, asked: str) -> None:
    """Whichever worker hears of it, while it computes the step; and the run that goes on is the unbroken one."""
    job = trained_job(tmp_path, "qwen3_moe")
    stopped = run(Order(job, "BB", tmp_path / "run", stop_at={asked: 3}))
    assert list(stopped.rows) == [1, 2, 3] and list(stopped.committed) == [2, 3]
    assert not stopped.errors and "val_loss" in stopped.rows[3]
    resumed = run(Order(job, "BB", tmp_path / "run", stopped.committed[3], generation=2))
    whole = run(Order(job, "B", tmp_path / "whole"))
    assert stopped.series() | resumed.series() == whole.series()
    assert digests(resumed.committed[STEPS]) == digests(whole.committed[STEPS])


def test_a_finished_run_that_is_resumed_has_nothing_to_do(tmp_path: Path) -> None:
    job = trained_job(tmp_path, "qwen3_moe").model_copy(update={"steps": 1})
    first = run(Order(job, "B", tmp_path / "run"))
    again = run(Order(job, "BB", tmp_path / "run", first.committed[1], generation=2))
    assert list(first.rows) == [1] and not again.rows and not again.parts and not again.errors


@pytest.mark.parametrize("family", ["qwen3_moe", "longcat_flash", "gpt_oss"])
def test_training_starts_from_a_hugging_face_folder(family: str, tmp_path: Path) -> None:
    """The first loss is transformers' own on the same batch, to 1e-6."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = AutoModelForCausalLM.from_config(tiny_config(family)).eval()
    own.save_pretrained(tmp_path / "start")
    by_family = trained_job(tmp_path, family).model_copy(update={"steps": 1})
    job = Job.model_validate(by_family.model_dump() | {"model": {"path": str(tmp_path / "start")}})
    outcome = run(Order(job, "BB", tmp_path / "run"))
    expected = loss_in_transformers(own, job, 1)
    assert outcome.rows[1]["loss"] == pytest.approx(expected, rel=1e-6)
    assert run(Order(by_family, "B", tmp_path / "random")).rows[1]["loss"] != pytest.approx(expected, rel=1e-6)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    job = trained_job(tmp_path, "qwen3_moe").model_copy(update={"steps": 1})
    first = run(Order(job, "B", tmp_path / "run"))
    other = trained_job(tmp_path, "qwen3_moe", hidden_size=32).model_copy(update={"steps": 2})
    outcome = run(Order(other, "B", tmp_path / "run", first.committed[1], generation=2))
    kind, message = outcome.errors["east/0"]
    assert kind == "MisfitError" and "but the model has" in message and not outcome.rows


def test_data_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    data = {"tokens": str(token_file(tmp_path, highest=300)), "sequence_length": 16}
    job = make_job("qwen3_moe", data=data)
    kind, message = run(Order(job, "B", tmp_path / "run")).errors["east/0"]
    assert kind == "DataError" and "is outside the vocabulary (0 .. 255)" in message
