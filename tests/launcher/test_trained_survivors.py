"""A whole run that really trains: whoever has not failed keeps its process, and the bits are those of an undisturbed
run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.families import config_values
from tests.launcher.toyrun import ToyRun, wait_for
from tests.training.running import token_file


def training_run(folder: Path, tokens: Path) -> ToyRun:
    """Three workers, thirty steps, a checkpoint after every tenth; they may listen on a few ports alone."""
    job: dict[str, Any] = {
        "job": "survivors",
        "model": {"family": "qwen3_moe", "config": config_values("qwen3_moe")},
        "data": {
            "tokens": str(tokens),
            "sequence_length": 16,
            "validation": {"fraction": 0.2, "every": 7, "batches": 1},
        },
        "batch": {"lanes": 3, "microbatches": 2, "microbatch_size": 1},
        "steps": 30,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 3}],
        "checkpoint": {"every": 10},
        "ports": "20200-20299",
        "fault": {"max_restarts": 10},
    }
    return ToyRun(folder, job, flags=("--train",)).start()


def series(run: ToyRun) -> dict[int, tuple[Any, ...]]:
    return {r["step"]: (r["loss"], r["ledger"], r.get("val_loss")) for r in run.run_dir.read_metrics()}


def pids(run: ToyRun) -> dict[str, int]:
    """Of all three workers; empty while one is missing."""
    found = run.worker_pids()
    return found if len(found) == 3 else {}


@pytest.mark.slow
def test_only_the_process_that_was_hit_is_another_one(tmp_path: Path) -> None:
    tokens = token_file(tmp_path)
    whole = training_run(tmp_path / "whole", tokens)
    assert whole.finish(300) == 0, whole.text()
    run = training_run(tmp_path / "run", tokens)
    for number, (step, victim, how) in enumerate(((5, 1, signal.SIGKILL), (12, 0, signal.SIGSEGV)), start=1):
        run.await_step(step)
        before = wait_for(lambda: pids(run), "all workers")
        os.kill(before[f"east/{victim}"], how)
        wait_for(lambda n=number: len(run.events("recovered")) >= n, f"recovery {number}: {run.text()}")
        over = run.events("recovered")[-1]
        assert over["forked"] == [f"east/{victim}"] and len(over["kept"]) == 2
        after = wait_for(
            lambda b=before: (f := run.worker_pids()) and len(f) == 3 and f != b and f, "all workers again"
        )
        assert {name for name in before if before[name] != after[name]} == {f"east/{victim}"}
    assert run.finish(300) == 0, run.text()
    assert series(run) == series(whole)
