"""What a save costs training: for how long it holds it up, and what the step beside its writing takes more.

    python benchmarks/saving.py [--size small|medium] [--tokens 8192] [--workers 1 2] [--rounds N]

Worker processes train; before every second step they save (stage, then digest, write, sync and read back beside it), to
the folder that `--folder` names. `plain` is the same without what is meant to keep the cost low: its writers have the
priority of training, and staging memory is taken by the first save. With as many workers as processors no core is free.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.determinism import ask, join, worker_pool
from benchmarks.step import SEQUENCES, SIZES, make_job
from dougong.checkpoint.directories import pending_directory
from dougong.checkpoint.part import PartWriter
from dougong.checkpoint.snapshot import Saver
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.storage import beside
from dougong.training.state import state_of
from tests.jobs import make_rig, plan_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--tokens", type=int, default=8192, help="a worker and step")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where checkpoints go; default: the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for workers in asked.workers:
            job = job_of(asked.size, workers, asked.tokens)
            for form in ("plain", "ours"):
                measure(job, workers, form, asked.rounds, Path(folder) / f"{workers}-{form}")


def job_of(size: str, workers: int, tokens: int) -> Job:
    job = make_job(size)
    batch = job.batch
    a_lane = batch.microbatches * batch.microbatch_size * SEQUENCES[size]
    lanes = workers * max(1, tokens // a_lane)
    return job.model_copy(update={"batch": batch.model_copy(update={"lanes": lanes})})


def measure(job: Job, workers: int, form: str, rounds: int, folder: Path) -> None:
    """Steps without and with a save before them, in turn."""
    held, alone, with_save = [], [], []
    with worker_pool(workers, step_worker, {}, job, folder, form) as pipes:
        ask(pipes, "reserve")
        ask(pipes, "step")
        for _ in range(rounds + 1):
            alone.append(ask(pipes, "step"))
            held.append(ask(pipes, "save"))
            with_save.append(ask(pipes, "step"))
            mega_bytes = ask(pipes, "wait")
    # The first save is told apart: its memory may be fresh.
    step_s = statistics.median(alone)
    print(f"{workers} workers, {form}: a step {step_s:.2f} s, a save {mega_bytes:.0f} MB")
    print(f"    first save held training {1000 * held[0]:.0f} ms, {held[0] / step_s:.1%} of a step")
    shares = [stall / step_s for stall in held[1:]]
    print(f"    later ones {1000 * statistics.median(held[1:]):.0f} ms, {spread(shares, 100)} % of a step")
    ratios = [after / before for before, after in zip(alone[1:], with_save[1:], strict=True)]
    print(f"    the step beside the writing over the one before: {spread(ratios)}", flush=True)


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    low, middle, high = (scale * value for value in statistics.quantiles(values, n=4))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def step_worker(rank: int, workers: int, port: int, pipe: Any, job: Job, *where: Any) -> None:
    """Answers orders: `step` with its seconds, `save` with those that it held training up."""
    folder, form = where
    if form == "plain":
        beside.NICENESS = 0  # type: ignore[misc]
    world = join(rank, workers, port)
    rig = make_rig(job, plan_for(job, "B" * workers), world)
    folder.mkdir(exist_ok=True)
    names = rig.stepper.parts.share.blueprint.names
    writer = PartWriter(f"w/{rank}", rank, 1)
    saver = Saver(folder, writer, lambda part: None, lambda step, reason: sys.exit(reason), names, DEADLINES)
    step, saved = 0, 0
    while (order := pipe.recv()) is not None:
        world.barrier()
        begun = time.perf_counter()
        if order == "reserve" and form == "ours":
            saver.reserve(state_of(rig.replica, rig.stepper.optimizer))
        elif order == "step":
            step += 1
            rig.stepper.run(step, rig.forwards(step))
        elif order == "save":
            saved = step
            saver.stage(step, state_of(rig.replica, rig.stepper.optimizer))
        seconds = time.perf_counter() - begun
        if order == "wait":
            saver.wait()
            world.barrier()
            place = pending_directory(folder, saved, 1)
            seconds = 0.0
            if rank == 0:
                seconds = sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e6
                shutil.rmtree(place)
            world.barrier()
        pipe.send(seconds)
    world.leave()


if __name__ == "__main__":
    main()
