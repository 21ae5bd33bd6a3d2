"""`dougong diff --trace`: run one step of two runs again, on the layout of each, and say where the
two part.

Both begin from the same state: the newest valid checkpoint, of either run, from before their
ledgers part, or the beginning. When the two computations agree, it was no arithmetic: one of the
recorded runs is not what its machine should have computed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.directories import CheckpointPlace, list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.verify import verify
from dougong.errors import CheckpointError, JobError
from dougong.job.load import load_job
from dougong.parallel.plan import Plan, Worker
from dougong.parallel.trace.trace_key import TraceKey, first_difference
from dougong.planner.resume import identity
from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow
from dougong.records.partial_run import PartialRun, StepTrace
from dougong.tools.ledger_diff import differences_of_step, first_split, tensors_of_step
from dougong.tools.local_run import LocalRunOptions, on_trial, try_out

EXPERTS_WORK = ("answers", "drows")


@dataclass(frozen=True)
class Rerun:
    """One recorded step and the same step computed again."""

    name: str
    recorded: MetricsRow
    again: MetricsRow
    run_dir: RunDir
    trace: StepTrace
    plan: Plan

    @property
    def reproduced(self) -> bool:
        """Whether the step gave the bits that were recorded."""
        return all(self.recorded.get(key) == self.again.get(key) for key in ("loss", "checksums"))


@dataclass(frozen=True)
class Retraced:
    """What was found, in words. `place`: where the two computations part, when they do in a
    lane."""

    step: int
    start: str
    place: TraceKey | None
    lines: tuple[str, ...]


def retrace(a: RunDir, b: RunDir, bench: LocalRunOptions) -> Retraced:
    """Trace the first step whose digests differ. Raises `JobError` when the two runs are of other
    jobs, or have no ledger in which they part; else what a trial raises. Leaves nothing behind."""
    rows = a.latest_metrics(), b.latest_metrics()
    step = first_split(*rows)
    if step is None:
        raise JobError(
            f"{a.path} and {b.path}: their ledgers do not part, so there is no step to trace"
        )
    _refuse_other_jobs(a, b)
    start = _common_state((a, b), rows, step)
    with tempfile.TemporaryDirectory(prefix="dougong-trace-") as folder:
        pair = [
            _again(
                name,
                run,
                next(r for r in side if r["step"] == step),
                start,
                Path(folder) / name,
                bench,
            )
            for name, run, side in zip("AB", (a, b), rows, strict=True)
        ]
        began = f"{start.path.name} of {start.path.parent.parent}" if start else "the beginning"
        place, lines = _compare(pair[0], pair[1], (a, b))
        return Retraced(step, began, place, tuple(lines))


def _refuse_other_jobs(a: RunDir, b: RunDir) -> None:
    old, new = (identity(load_job(run.job_file).job) for run in (a, b))
    layouts = [
        [(w.lanes, w.experts) for w in plan.workers]
        for run in (a, b)
        if (plan := run.read_plan()) is not None
    ]
    if old["determinism"] != "layout" and layouts[1:] != layouts[:1]:
        raise JobError(
            f"{a.path} and {b.path}: determinism: {old['determinism']} promises no bits across layouts, and theirs are "
            "not the same; compare runs of one layout, or of a job with determinism: layout"
        )
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        raise JobError(
            f"{a.path} and {b.path}: their jobs differ in {', '.join(changed)}, so they compute other things from "
            "the first step on and there is no place to look for; compare runs of one job"
        )


def _common_state(
    runs: Sequence[RunDir], rows: Sequence[Sequence[MetricsRow]], step: int
) -> CheckpointPlace | None:
    """The newest valid checkpoint before `step` that carries the digest which both ledgers have
    there."""
    digests = [{int(row["step"]): row.get("ledger") for row in side} for side in rows]
    places = [
        place for run in runs for place in list_committed(run.checkpoints) if place.step < step
    ]
    for place in sorted(places, reverse=True):
        try:
            digest = Manifest.load(place.path).metadata.get("ledger")
        except CheckpointError:
            continue
        told = [side.get(place.step) for side in digests]
        if digest is not None and told == [digest, digest] and verify(place.path).ok:
            return place
    return None


def _again(
    name: str,
    run: RunDir,
    row: MetricsRow,
    start: CheckpointPlace | None,
    path: Path,
    bench: LocalRunOptions,
) -> Rerun:
    job = load_job(run.job_file).job
    path.mkdir()
    trial = RunDir.create(path)
    trial.write_job(run.read_job())
    if start is not None:
        (trial.checkpoints / start.path.name).symlink_to(start.path.resolve())
    step = int(row["step"])
    trial = try_out(on_trial(job, job.islands), path, PartialRun(step, trace=step), bench)
    again = next(r for r in trial.latest_metrics() if r["step"] == step)
    plan = trial.read_plan()
    assert plan is not None, "a run that made steps has a plan"
    return Rerun(name, row, again, trial, StepTrace.read(path), plan)


def _compare(a: Rerun, b: Rerun, runs: tuple[RunDir, RunDir]) -> tuple[TraceKey | None, list[str]]:
    place = first_difference(a.trace.found, b.trace.found)
    if place is not None:
        where = place.describe(a.trace.sites)
        return place, [
            f"first difference: {where}",
            f"  computed by {_who(a, place)} and by {_who(b, place)}",
        ]
    sums = differences_of_step((a.run_dir, b.run_dir), (a.again, b.again))
    sums = [(name, note) for name, note in sums if name != "ledger"]
    if sums:
        name, note = sums[0]
        return None, [
            "every lane computes the same on both layouts",
            f"first difference: {name}: {note}",
        ]
    return None, ["both layouts compute the same bits again", *_blame(a, b, runs)]


def _who(side: Rerun, place: TraceKey) -> str:
    """The workers of a layout that had their hands in a place."""
    workers = [w.name for w in side.plan.workers if place.lane in w.lanes]
    if place.what in EXPERTS_WORK:
        workers += [
            w.name
            for w in side.plan.workers
            if place.part in w.experts[place.site] and w.name not in workers
        ]
    return f"{', '.join(workers)} of {side.name}"


def _blame(a: Rerun, b: Rerun, runs: tuple[RunDir, RunDir]) -> list[str]:
    """The reruns agree: which recorded run they contradict, and whose tensors were wrong there."""
    if a.reproduced == b.reproduced:
        return [
            "and neither run's record: both were computed with other software or other machines than are here now"
            if not a.reproduced
            else "and both runs' records of the step: they parted before it"
        ]
    wrong, right = (a, b) if b.reproduced else (b, a)
    suspects = _owners_of_wrong((a, b), wrong, runs)
    one_of = "one of " if len(suspects) > 1 else ""
    who = f"{one_of}{', '.join(suspects)}, or its memory, computed it wrongly"
    return [
        f"which is what run {right.name} recorded",
        f"run {wrong.name}'s step {wrong.recorded['step']} is not reproduced: {who}",
    ]


def _owners_of_wrong(
    pair: tuple[Rerun, Rerun], wrong: Rerun, runs: tuple[RunDir, RunDir]
) -> list[str]:
    """Owners, in the wrong run, of the tensors that differ first: gradients before weights."""
    kept = tensors_of_step(runs, (pair[0].recorded, pair[1].recorded))
    plan = runs[pair.index(wrong)].read_plan() or wrong.plan
    first = next(iter(kept), ("", ""))[0]
    return sorted(
        {_owner(name, plan, wrong.trace.sites).name for kind, name in kept if kind == first}
    ) or [w.name for w in plan.workers]


def _owner(name: str, plan: Plan, sites: Sequence[str]) -> Worker:
    if name in plan.owners:
        return plan.workers[plan.owners[name]]
    expert = min(
        int(name.rpartition("[")[2].rstrip("]")), plan.num_experts - 1
    )  # rows behind the last are its owner's
    site = next(number for number, known in enumerate(sites) if name.startswith(f"{known}."))
    return next(w for w in plan.workers if expert in w.experts[site])
