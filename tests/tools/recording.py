"""Small jobs for proofs, and runs as the controller would leave them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dougong.job.load import ResolvedJob
from dougong.job.schema import Job
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated
from dougong.records.partial_run import PartialRun
from dougong.tools.local_run import PARTIAL_RUN, LocalRunOptions
from tests.families import SMALLEST
from tests.jobs import make_job
from tests.training.flipping import Flip
from tests.training.running import Order, lay_out, run, token_file

QUICK = LocalRunOptions(dataclasses.replace(PARTIAL_RUN, fingerprint=None))


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


def recorded(job: Job, roles: str, path: Path, flip: Flip | None = None) -> RunDir:
    """A run's directory as the controller would leave it, with a checkpoint of every step."""
    run_dir = RunDir.create(path)
    run_dir.write_job(ResolvedJob(job, {}).to_yaml())
    run_dir.write_plan(lay_out(job, roles).to_json())
    run_dir.append_event(RunCreated(generation=1, job=job.job))
    PartialRun(job.steps).write(path)
    outcome = run(Order(job, roles, path, train=(flip or Flip(step=0)).train))
    assert not outcome.errors
    for row in outcome.rows.values():
        run_dir.append_metrics({"generation": 1, **row})
    return run_dir
