"""`dougong prove` and `diff --trace` on real runs: equal layouts, a device that errs, a record that is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import typer
from dougong.cli.diff import diff as diff_command
from dougong.errors import JobError
from dougong.job.load import ResolvedJob
from dougong.job.schema import Job
from dougong.records.directory import RunDir
from dougong.tools.layouts import layouts
from dougong.tools.local_run import PARTIAL_RUN, LocalRunOptions
from dougong.tools.prove import explain, run_layouts, shortened
from dougong.tools.run_diff import diff
from dougong.tools.trace_diff import retrace
from tests.families import SMALLEST
from tests.jobs import make_job
from tests.training.flipping import Flip
from tests.training.running import Order, lay_out, run, token_file
from typer.testing import CliRunner

QUICK = LocalRunOptions(dataclasses.replace(PARTIAL_RUN, fingerprint=None))
FLIPPING = "tests.training.flipping"
FAULTY = LocalRunOptions(
    dataclasses.replace(QUICK.entries, train=f"{FLIPPING}:flip_on_two", preload=(FLIPPING, *PARTIAL_RUN.preload))
)


def small_job(folder: Path, **changes: object) -> Job:
    data = {
        "tokens": str(token_file(folder)),
        "sequence_length": 16,
        "validation": {"fraction": 0.2, "every": 1, "batches": 1},
    }
    model = {"family": "qwen3_moe", "config": {**SMALLEST, "vocab_size": 256, "initializer_range": 0.3}}
    batch = {"lanes": 2, "microbatches": 2, "microbatch_size": 1}
    drill = [{"at_step": 2, "kill": "east/0"}]
    values = {"data": data, "model": model, "batch": batch, "drill": drill, "schedule": {"warmup_steps": 3}, **changes}
    return make_job(**values)


def temporary_directories() -> set[Path]:
    import tempfile

    return set(Path(tempfile.gettempdir()).glob("dougong-*"))


def test_a_device_that_errs_is_found_with_the_place_and_other_layouts_are_equal(tmp_path: Path) -> None:
    """The entry errs in step 2 of every run on two workers: not where it was stopped before, and resumed on three. The
    job's own warm-up and drill do not fit two steps."""
    job = shortened(small_job(tmp_path), 2)
    before = temporary_directories()
    several = sorted(
        (t for t in layouts(job, 4, 4) if t.workers in ("1", "2 then 3", "2")), key=lambda t: t.workers == "2"
    )
    runs = list(run_layouts(job, several, tmp_path, FAULTY))
    one, resumed, erring = runs
    attempts = [record.attempt for record in resumed.records.values()]
    assert (resumed.layout.workers, attempts) == ("2 then 3", [1, 2])
    assert one.last.digest == resumed.last.digest != erring.last.digest
    assert [run.split for run in runs] == [None, None, 2]
    assert explain([one, resumed], FAULTY) == []
    said = "\n".join(explain(runs, FAULTY))
    assert said.startswith("different: step 2: ")
    assert "first difference: lane 1, micro-batch 0, forward, model.layers.1.mlp.experts, expert " in said
    assert "computed by both/0 of A and by both/1" in said
    assert temporary_directories() == before


def recorded(job: Job, roles: str, path: Path, flip: Flip | None = None) -> RunDir:
    """A run's directory as the controller would leave it, with a checkpoint of every step."""
    run_dir = RunDir.create(path)
    run_dir.write_job(ResolvedJob(job, {}).to_yaml())
    run_dir.write_plan(lay_out(job, roles).to_json())
    run_dir.append_event("created", 1)
    (path / "errand.json").write_text(json.dumps({"until": job.steps}))
    outcome = run(Order(job, roles, path, train=(flip or Flip(step=0)).train))
    assert not outcome.errors
    for row in outcome.rows.values():
        run_dir.append_metrics({"attempt": 1, **row})
    return run_dir


def test_a_record_that_no_layout_reproduces_is_wrong(tmp_path: Path) -> None:
    """The flip happened once, in the recorded run: diff names the step and its tensors; from the checkpoint before it
    both layouts compute A's bits."""
    job = small_job(tmp_path, steps=3, checkpoint={"every": 1}, schedule={})
    job = job.model_copy(update={"islands": (job.islands[0].model_copy(update={"workers": 2}),)})
    a = recorded(job, "BB", tmp_path / "a")
    b = recorded(job, "BB", tmp_path / "b", Flip(step=3, bit=16))
    assert_diff_names_step_and_tensors(a, b)
    before = temporary_directories()
    found = retrace(a, b, QUICK)
    assert (found.step, found.place) == (3, None) and found.start.startswith("step-000002 of ")
    assert found.lines[:2] == ("both layouts compute the same bits again", "which is what run A recorded")
    assert found.lines[2].startswith("run B's step 3 is not reproduced: ")
    assert temporary_directories() == before
    with pytest.raises(JobError, match="do not part"):
        retrace(a, a, QUICK)


def assert_diff_names_step_and_tensors(a: RunDir, b: RunDir) -> None:
    comparison = diff(a.path, b.path)
    assert not comparison.equal and comparison.compared == "the ledger of 3 steps"
    names = [d.name for d in comparison.differences if d.name != "loss"]
    assert {d.step for d in comparison.differences} == {3}
    gradients = [n for n in names if n.startswith("gradient of ")]
    assert names[: len(gradients)] == sorted(gradients) and "gradient of model.embed_tokens.weight" in gradients
    weights = names[len(gradients) :]
    assert weights == sorted(weights) and all(n.startswith("weight of ") for n in weights)
    (b.ledger).rename(b.path / "elsewhere")
    assert "which tensors is not known" in str(diff(a.path, b.path))
    (b.path / "elsewhere").rename(b.ledger)
    assert diff(a.path, a.path).equal and "and the ledger of 3" in str(diff(a.path, a.path))


def test_what_cannot_be_proved_or_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="determinism: run promises no bits across layouts.*-o determinism=layout"):
        shortened(small_job(tmp_path, determinism="run"), 2)
    short = {"steps": 1, "drill": (), "schedule": {}}
    a = recorded(small_job(tmp_path, **short), "B", tmp_path / "a")
    b = recorded(small_job(tmp_path, **short, seed=8), "B", tmp_path / "b")
    with pytest.raises(JobError, match="their jobs differ in seed"):
        retrace(a, b, QUICK)
    app = typer.Typer()
    app.command()(diff_command)
    refused = CliRunner().invoke(app, [str(a.path), str(b.path), "--trace"])
    assert refused.exit_code == 2
    assert "step 1: loss: " in refused.output and "dougong diff --trace: " in refused.output
