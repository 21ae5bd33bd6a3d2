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
from dougong.records.partial_run import PartialRun
from dougong.tools.layouts import Layout
from dougong.tools.ledger_diff import differences_of_step, first_split
from dougong.tools.local_run import LocalRunOptions, on_this_machine, run_here
from dougong.tools.step_record import StepRecord, StepRecords, read_records
from dougong.tools.trace_diff import retrace


@dataclass(frozen=True)
class LayoutRun:
    """One layout's run. `split`: the first step in which it differs from the first layout's; None:
    it never does."""

    layout: Layout
    run_dir: RunDir
    records: StepRecords
    split: int | None = None

    @property
    def last(self) -> StepRecord:
        return self.records[max(self.records)]


def shortened(job: Job, steps: int) -> Job:
    """The job in a few steps, with a ledger.

    Raises `JobError` when it promises nothing that could be proved.
    """
    if not job.is_layout_free:
        raise JobError(
            f"determinism: {job.determinism} promises no bits across layouts, so there is "
            "nothing to prove; add -o determinism=layout"
        )
    warmup_steps = min(job.schedule.warmup_steps, steps)
    schedule = job.schedule.model_copy(update={"warmup_steps": warmup_steps})
    return job.model_copy(update={"steps": steps, "schedule": schedule})


def run_layouts(
    job: Job, layouts: Sequence[Layout], folder: Path, options: LocalRunOptions
) -> Iterator[LayoutRun]:
    """Run the job on every layout, one after the other, in `folder`. Raises what a run ended
    with."""
    first: StepRecords = {}
    for number, layout in enumerate(layouts, 1):
        run_dir = _run(job, layout, folder / str(number), options)
        records = read_records(run_dir)
        first = first or records
        yield LayoutRun(layout, run_dir, records, first_split(first, records))


def _run(job: Job, layout: Layout, path: Path, options: LocalRunOptions) -> RunDir:
    if layout.then:
        first_half = PartialRun(job.steps // 2, save=True)
        run_here(on_this_machine(job, layout.islands), path, first_half, options)
    islands = layout.then or layout.islands
    run = run_here(on_this_machine(job, islands), path, PartialRun(job.steps), options)
    shutil.rmtree(run.checkpoints)  # as large as the model; the ledger has all that is compared
    run.checkpoints.mkdir()
    return run


def explain(runs: Sequence[LayoutRun], options: LocalRunOptions) -> list[str]:
    """What differs first, in words: the step, the tensor, and, traced, the place. Empty when
    nothing differs."""
    a = runs[0]
    for b in runs:
        if b.split is not None:
            return _explain_pair(a, b, b.split, options)
    return []


def _explain_pair(a: LayoutRun, b: LayoutRun, split: int, options: LocalRunOptions) -> list[str]:
    pair = a.records[split], b.records[split]
    (name, note), *more = differences_of_step((a.run_dir, b.run_dir), pair)
    rest = f" (and {len(more)} more)" if more else ""
    found = retrace(a.run_dir, b.run_dir, options)
    return [
        f"different: step {split}: {name}: {note}{rest}",
        f"  A: {a.layout.name}; B: {b.layout.name}",
        *(f"  {line}" for line in found.lines),
    ]
