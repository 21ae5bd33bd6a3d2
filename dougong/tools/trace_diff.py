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
from dougong.job.load import load_recorded
from dougong.parallel.pieces import cut_tensors, tensor_of
from dougong.parallel.plan import Plan, Worker
from dougong.parallel.trace.trace_key import TraceKey, first_difference
from dougong.planner.resume import identity
from dougong.records.directory import RunDir
from dougong.records.partial_run import PartialRun, StepTrace
from dougong.tools.ledger_diff import Runs, differences_of_step, first_split, tensors_of_step
from dougong.tools.local_run import LocalRunOptions, on_this_machine, run_here
from dougong.tools.step_record import StepRecord, StepRecords, read_records

COMPUTED_BY_EXPERTS = ("outputs", "drows")
"""What a trace's checksums are of, where the experts' workers compute it."""


@dataclass(frozen=True)
class Rerun:
    """One recorded step of run `name` ("A" or "B"), and the same step computed again."""

    name: str
    recorded: StepRecord
    again: StepRecord
    run_dir: RunDir
    trace: StepTrace
    plan: Plan

    @property
    def reproduced(self) -> bool:
        """Whether the step gave the bits that were recorded."""
        old, new = self.recorded, self.again
        return (old.loss, old.totals) == (new.loss, new.totals)


@dataclass(frozen=True)
class Retraced:
    """What was found, in words. `place`: where the two computations part, when they do in a
    lane."""

    step: int
    start: str
    place: TraceKey | None
    lines: tuple[str, ...]


def retrace(a: RunDir, b: RunDir, options: LocalRunOptions) -> Retraced:
    """Trace the first step whose digests differ. Leaves nothing behind.

    Raises `JobError` when the two runs are of other jobs, or have no ledger in which they part;
    else what a run of `run_here` raises.
    """
    runs = (a, b)
    records = (read_records(a), read_records(b))
    step = _first_split(runs, records)
    _refuse_other_layouts(a, b)
    _refuse_other_jobs(a, b)
    start = _common_state(runs, records, step)
    with tempfile.TemporaryDirectory(prefix="dougong-trace-") as folder:
        reruns = []
        for name, run, recorded in zip("AB", runs, records, strict=True):
            path = Path(folder) / name
            reruns.append(_run_again(name, run, recorded[step], _begin(path, run, start), options))
        place, lines = _compare(reruns[0], reruns[1], runs)
    return Retraced(step, _describe(start), place, tuple(lines))


def _first_split(runs: Runs, records: tuple[StepRecords, StepRecords]) -> int:
    step = first_split(*records)
    if step is None:
        a, b = runs
        raise JobError(
            f"{a.path} and {b.path}: their ledgers do not part, so there is no step to trace"
        )
    return step


def _refuse_other_layouts(a: RunDir, b: RunDir) -> None:
    job = load_recorded(a.job_file).job
    if job.is_layout_free or _layout(a.read_plan()) == _layout(b.read_plan()):
        return
    raise JobError(
        f"{a.path} and {b.path}: determinism: {job.determinism} promises no bits across layouts, "
        "and theirs are not the same; compare runs of one layout, or of a job with "
        "determinism: layout"
    )


def _layout(plan: Plan | None) -> list[tuple[object, object]]:
    workers = plan.workers if plan is not None else ()
    return [(worker.lanes, worker.experts) for worker in workers]


def _refuse_other_jobs(a: RunDir, b: RunDir) -> None:
    old = identity(load_recorded(a.job_file).job)
    new = identity(load_recorded(b.job_file).job)
    changed = [key for key in new if old.get(key) != new[key]]
    if changed:
        raise JobError(
            f"{a.path} and {b.path}: their jobs differ in {', '.join(changed)}, so they compute "
            "other things from the first step on and there is no place to look for; compare runs "
            "of one job"
        )


def _common_state(
    runs: Runs, records: tuple[StepRecords, StepRecords], step: int
) -> CheckpointPlace | None:
    """The newest valid checkpoint before `step` that both runs could have gone on from; None: the
    beginning.

    A checkpoint carries the ledger's digest of its step. Where both ledgers have that digest, both
    runs had computed the same bits up to there.
    """
    candidates: list[CheckpointPlace] = []
    for run in runs:
        candidates += [found for found in list_committed(run.checkpoints) if found.step < step]
    for found in sorted(candidates, reverse=True):
        digest = _digest_in(found)
        recorded = [side[found.step].digest for side in records if found.step in side]
        if digest is not None and recorded == [digest, digest] and verify(found.path).ok:
            return found
    return None


def _digest_in(checkpoint: CheckpointPlace) -> str | None:
    try:
        return Manifest.load(checkpoint.path).metadata.get("ledger")
    except CheckpointError:
        return None


def _describe(start: CheckpointPlace | None) -> str:
    if start is None:
        return "the beginning"
    return f"{start.path.name} of {start.path.parent.parent}"


def _begin(path: Path, run: RunDir, start: CheckpointPlace | None) -> RunDir:
    """A new run directory with the job of `run`, that goes on from `start`."""
    begun = RunDir.create(path)
    begun.write_job(run.read_job())
    # What is computed again is built from what the run has kept, not from what lies there now.
    for kept in (run.sources_file, run.own_tokenizer):
        if kept.exists():
            (begun.path / kept.name).symlink_to(kept.resolve())
    if start is not None:
        (begun.checkpoints / start.path.name).symlink_to(start.path.resolve())
    return begun


def _run_again(
    name: str, run: RunDir, recorded: StepRecord, begun: RunDir, options: LocalRunOptions
) -> Rerun:
    """Run up to and with the recorded step in `begun`, and trace that step."""
    job = load_recorded(run.job_file).job
    request = PartialRun(recorded.step, trace=recorded.step)
    done = run_here(on_this_machine(job, job.islands), begun.path, request, options)
    plan = done.read_plan()
    assert plan is not None, "a run that made steps has a plan"
    again = read_records(done)[recorded.step]
    return Rerun(name, recorded, again, done, StepTrace.read(done.path), plan)


def _compare(a: Rerun, b: Rerun, runs: Runs) -> tuple[TraceKey | None, list[str]]:
    """(the place where the reruns part, what is said of it)."""
    place = first_difference(a.trace.found, b.trace.found)
    if place is not None:
        return place, [
            f"first difference: {place.describe(a.trace.sites)}",
            f"  computed by {_who(a, place)} and by {_who(b, place)}",
        ]
    # No lane's values differ. What is left is how they were added over lanes, or the update.
    for name, note in differences_of_step((a.run_dir, b.run_dir), (a.again, b.again)):
        if name != "ledger":
            return None, [
                "every lane computes the same on both layouts",
                f"first difference: {name}: {note}",
            ]
    return None, ["both layouts compute the same bits again", *_blame(a, b, runs)]


def _who(rerun: Rerun, place: TraceKey) -> str:
    """The workers of a layout that took part in computing a place."""
    names = [worker.name for worker in rerun.plan.workers if place.lane in worker.lanes]
    if place.what in COMPUTED_BY_EXPERTS:
        for worker in rerun.plan.workers:
            if place.part in worker.experts[place.site] and worker.name not in names:
                names.append(worker.name)
    return f"{', '.join(names)} of {rerun.name}"


def _blame(a: Rerun, b: Rerun, runs: Runs) -> list[str]:
    """The reruns agree: which recorded run they contradict, and whose tensors were wrong there."""
    if a.reproduced and b.reproduced:
        return ["and both runs' records of the step: they parted before it"]
    if not a.reproduced and not b.reproduced:
        return [
            "and neither run's record: both were computed with other software or other machines "
            "than are here now"
        ]
    wrong, right = (a, b) if b.reproduced else (b, a)
    suspects = _suspects((a, b), wrong, runs)
    who = f"one of {', '.join(suspects)}" if len(suspects) > 1 else suspects[0]
    step = wrong.recorded.step
    return [
        f"which is what run {right.name} recorded",
        f"run {wrong.name}'s step {step} is not reproduced: "
        f"{who}, or its memory, computed it wrongly",
    ]


def _suspects(reruns: tuple[Rerun, Rerun], wrong: Rerun, runs: Runs) -> list[str]:
    """Owners, in the wrong run, of the tensors that differ first: gradients before weights. All
    workers, where it is not known which tensors those are."""
    plan = runs[reruns.index(wrong)].read_plan() or wrong.plan
    different = list(tensors_of_step(runs, (reruns[0].recorded, reruns[1].recorded)))
    if not different:
        return [worker.name for worker in plan.workers]
    first_kind, _ = different[0]
    return sorted(
        {
            owner_of(name, plan, wrong.trace.sites).name
            for kind, name in different
            if kind == first_kind
        }
    )


def owner_of(tensor: str, plan: Plan, sites: Sequence[str]) -> Worker:
    """The worker of a dense tensor, or of its first piece where the name is that of the whole; of
    an expert's by the number in brackets."""
    if tensor in plan.owners:
        return plan.workers[plan.owners[tensor]]
    pieces = cut_tensors(plan.owners).get(tensor_of(tensor))
    if pieces is not None:
        return plan.workers[plan.owners[pieces[0].name]]
    number = int(tensor.rpartition("[")[2].rstrip("]"))
    # A family may store rows behind those of its experts; they belong to the last expert's owner.
    expert = min(number, plan.num_experts - 1)
    site = next(i for i, module in enumerate(sites) if tensor.startswith(f"{module}."))
    return next(worker for worker in plan.workers if expert in worker.experts[site])
