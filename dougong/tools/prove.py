"""`dougong prove`: run a job for a few steps on several layouts and compare what they computed, bit
by bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.errors import JobError
from dougong.job.schema import Job
from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow
from dougong.records.partial_run import PartialRun
from dougong.tools.layouts import Layout
from dougong.tools.ledger_diff import differences_of_step, first_split
from dougong.tools.local_run import LocalRunOptions, on_trial, try_out
from dougong.tools.trace_diff import retrace


@dataclass(frozen=True)
class Tried:
    """One layout's run. `split`: the first step in which it differs from the first layout's; None:
    it never does."""

    layout: Layout
    run_dir: RunDir
    rows: tuple[MetricsRow, ...]
    split: int | None = None


def shortened(job: Job, steps: int) -> Job:
    """The job in a few steps, with a ledger. `JobError` when it promises nothing that could be
    proved."""
    if not job.is_layout_free:
        raise JobError(
            f"determinism: {job.determinism} promises no bits across layouts, so there is nothing to prove; "
            "add -o determinism=layout"
        )
    warmup = min(job.schedule.warmup_steps, steps)
    return job.model_copy(
        update={
            "steps": steps,
            "schedule": job.schedule.model_copy(update={"warmup_steps": warmup}),
        }
    )


def try_all(
    job: Job, several: Sequence[Layout], folder: Path, bench: LocalRunOptions
) -> Iterator[Tried]:
    """Run the job on every layout, one after the other, in `folder`. Raises what a run ended
    with."""
    first: Sequence[MetricsRow] | None = None
    for number, layout in enumerate(several, 1):
        run_dir, rows = _run(job, layout, folder / str(number), bench)
        first = first or rows
        yield Tried(layout, run_dir, rows, first_split(first, rows))


def _run(
    job: Job, layout: Layout, path: Path, bench: LocalRunOptions
) -> tuple[RunDir, tuple[MetricsRow, ...]]:
    if layout.then:
        try_out(on_trial(job, layout.islands), path, PartialRun(job.steps // 2, save=True), bench)
    run = try_out(on_trial(job, layout.then or layout.islands), path, PartialRun(job.steps), bench)
    shutil.rmtree(run.checkpoints)  # as large as the model; the ledger has all that is compared
    run.checkpoints.mkdir()
    return run, tuple(run.latest_metrics())


def explain(tried: Sequence[Tried], bench: LocalRunOptions) -> list[str]:
    """What differs first, in words: the step, the tensor, and, traced, the place. Empty when
    nothing differs."""
    a = tried[0]
    b = next((t for t in tried if t.split is not None), None)
    if b is None:
        return []
    rows = [next(row for row in side.rows if row["step"] == b.split) for side in (a, b)]
    (what, how), *more = differences_of_step((a.run_dir, b.run_dir), (rows[0], rows[1]))
    rest = f" (and {len(more)} more)" if more else ""
    found = retrace(a.run_dir, b.run_dir, bench)
    return [
        f"different: step {b.split}: {what}: {how}{rest}",
        f"  A: {a.layout.name}; B: {b.layout.name}",
        *(f"  {line}" for line in found.lines),
    ]
