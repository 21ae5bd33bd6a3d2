"""The quickstart from end to end, in a small form: real processes, real training, real deaths, the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from dougong.job.load import load_job
from dougong.records.directory import RunDir
from dougong.tools.run_diff import diff
from dougong.ui.history import closing_words

ROOT = Path(__file__).resolve().parent.parent
STEPS = 8
SMALL = [
    f"steps={STEPS}", "schedule.warmup_steps=2", "data.sequence_length=32", "data.validation.every=4",
    "data.validation.batches=1", "checkpoint.every=3", "model.config.num_hidden_layers=2", "drill=[]",
]  # fmt: skip
DEADLINE_S = 150


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's own file, made small."""
    resolved = load_job(ROOT / "examples/quickstart.yaml", SMALL)
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text(resolved.to_yaml())
    return path


def dougong(*words: str, module: str = "dougong") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def unbroken(job_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, on one worker."""
    run_dir = tmp_path_factory.mktemp("runs") / "unbroken"
    one = ("-o", "islands.east.workers=1")
    ended = dougong("run", str(job_file), "--no-ray", "--run-dir", str(run_dir), *one)
    assert ended.returncode == 0, ended.stderr
    return run_dir


def losses(run_dir: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in RunDir(run_dir).latest_metrics()]


def assert_same_run(run_dir: Path, other: Path) -> None:
    """Every step's loss, and weights and optimizer state of the last checkpoint, bit by bit."""
    assert losses(run_dir) == losses(other)
    last = f"checkpoints/step-{STEPS:06d}"
    compared = diff(run_dir / last, other / last)
    assert compared.equal, "\n".join(compared.lines(5))


def test_a_run_leaves_what_the_readme_promises(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert {"job.yaml", "plan.json", "status.json", "metrics.jsonl", "events.jsonl", "report.html"} <= names
    assert (unbroken / "logs/1/east/0.log").is_file()
    assert list((unbroken / "tensorboard").glob("events.out.tfevents.*"))
    rows = RunDir(unbroken).read_metrics()
    keys = {"generation", "step", "loss", "tokens", "step_s", "tokens_per_s", "grad_norm", "lr", "islands"}
    assert all(keys <= row.keys() for row in rows)
    assert [row["step"] for row in rows if "val_loss" in row] == [4, STEPS]
    plan = json.loads((unbroken / "plan.json").read_text())
    assert plan["workers"][0]["lanes"] == [0, 1, 2, 3]
    assert plan["workers"][0]["experts"] == [list(range(16))] * 2


def test_the_loss_falls(unbroken: Path) -> None:
    first, *_, last = losses(unbroken)
    assert last[1] < first[1] - 0.3


def test_transformers_opens_the_checkpoint_and_finds_the_same_loss(unbroken: Path, job_file: Path) -> None:
    import torch
    from dougong.data.windows import open_data
    from transformers import AutoModelForCausalLM

    job = load_job(job_file, []).job
    data = open_data(job, 256)
    model = AutoModelForCausalLM.from_pretrained(unbroken / f"checkpoints/step-{STEPS:06d}/model").eval()
    with torch.no_grad():
        batches = [torch.from_numpy(data.validation_batch(i)) for i in range(data.num_validation_batches)]
        values = [float(model(input_ids=ids, labels=ids).loss) for ids in batches]
    measured = RunDir(unbroken).latest_metrics()[-1]["val_loss"]
    # transformers adds a token's experts in the experts' order, dougong in the router's: float32 rounding apart.
    assert sum(values) / len(values) == pytest.approx(measured, abs=2e-6)


def test_terminated_and_resumed_on_other_workers_it_is_the_same_run(
    unbroken: Path, job_file: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "stopped"
    words = [sys.executable, "-m", "dougong", "run", str(job_file), "--no-ray", "--run-dir", str(run_dir)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        await_step(run_dir, 2)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    status = json.loads(dougong("status", str(run_dir), "--json").stdout)
    assert status["state"] == "STOPPED"
    assert 2 <= status["step"] < STEPS
    assert (run_dir / f"checkpoints/step-{status['step']:06d}/manifest.json").is_file()
    ended = dougong("resume", str(run_dir), "--no-ray", "-o", "islands.east.workers=3")
    assert ended.returncode == 0, ended.stderr
    assert_same_run(run_dir, unbroken)


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        pytest.param(5, "forward", id="forward", marks=pytest.mark.slow),
        pytest.param(4, "exchange", id="gradients"),
        pytest.param(6, "checkpoint", id="checkpoint", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_it_recovers_to_the_same_run(
    unbroken: Path, job_file: Path, tmp_path: Path, step: int, phase: str
) -> None:
    run_dir = tmp_path / "killed"
    ended = dougong(str(run_dir), str(job_file), "east/1", str(step), phase, module="tests.bombs")
    assert ended.returncode == 0, ended.stderr
    events = RunDir(run_dir).read_events()
    (died,) = [e for e in events if e.kind == "worker_died"]
    assert died.worker == "east/1"
    assert "SIGKILL" in died.cause
    generations = {e.generation for e in events if e.kind == "generation_started"}
    assert generations == {1, 2}
    again = [e for e in events if e.kind == "steps_recomputed"]
    # It goes on from memory: from the step before, or from the one before that.
    assert [(e.last - e.first, e.differs_from) for e in again] in ([], [(0, None)])
    assert ("computed again: the same bits" in closing_words(RunDir(run_dir))) == bool(again)
    assert_same_run(run_dir, unbroken)


def await_step(run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    rows: list[Any] = []
    while time.monotonic() < deadline:
        rows = RunDir(run_dir).read_metrics() if (run_dir / "metrics.jsonl").exists() else []
        if any(row["step"] >= step for row in rows):
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached; rows: {rows}")
