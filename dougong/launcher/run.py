"""`dougong run` and `dougong resume` without the command line: a job in, an outcome out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.control.run_sources import RunSources
from dougong.deadlines import Deadlines
from dougong.errors import CheckpointError, DougongError, JobError, LaunchError, WorkerError
from dougong.job.load import KEPT, ResolvedJob, load_job
from dougong.job.schema import Job
from dougong.launcher.backends.base import Backend
from dougong.launcher.backends.local import Local
from dougong.launcher.backends.ray_cluster import RayBackend
from dougong.launcher.client import is_alive
from dougong.launcher.controller.config import (
    FROM_START,
    TRAINING,
    ControllerConfig,
    EntryPoints,
    ResumePoint,
)
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbox import Inbox
from dougong.launcher.controller.items import SignalReceived
from dougong.launcher.controller.states import Outcome
from dougong.planner.resume import changes_of_bits, check_resume
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    DrillFired,
    FirstStep,
    RunCreated,
    WarningRaised,
)
from dougong.records.machine import describe_machine
from dougong.ui.history import closing_words
from dougong.ui.recorder import Recorder
from dougong.ui.report.page import write_report
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import make_view


@dataclass(frozen=True)
class Options:
    """How to run. `address`: a Ray cluster's, None for a Ray of our own; `ray` False: subprocesses
    of this machine."""

    address: str | None = None
    ray: bool = True
    entries: EntryPoints = TRAINING


def start_run(resolved: ResolvedJob, path: Path, options: Options) -> int:
    """A new run in a new run directory; returns the exit status. Raises what ended it, when that is
    an error."""
    run_dir = RunDir.create(path.absolute())
    run_dir.write_job(resolved.to_yaml())
    return _run(resolved.job, run_dir, options, FROM_START)


def resume_run(path: Path, overrides: Sequence[str], options: Options) -> int:
    """Go on with a run from its newest valid checkpoint. `overrides` may change where it runs, not
    what it computes."""
    run_dir = RunDir.open(path.absolute())
    refuse_if_alive(run_dir)
    before = load_job(run_dir.job_file, [], KEPT)
    after = load_job(run_dir.job_file, list(overrides), KEPT)
    check_resume(before.job, after.job)
    resume_point = _with_changes(take_over(run_dir), before.job, after.job)
    steps = after.job.steps
    if resume_point.step >= steps:
        raise JobError(
            f"{path}: step {resume_point.step} of {steps} is done already; to go on further, add "
            f"`-o steps={2 * steps}`"
        )
    run_dir.write_job(after.to_yaml())
    return _run(after.job, run_dir, options, resume_point, known_sources(run_dir))


def known_sources(run_dir: RunDir) -> RunSources | None:
    """What the run had read when it began: its own record, else its newest checkpoint's; None
    where it did not come so far."""
    found = run_dir.read_sources()
    if found is not None:
        return found
    for place in list_committed(run_dir.checkpoints):
        try:
            stored = Manifest.load(place.path).metadata.get("sources")
        except CheckpointError:
            continue  # whoever looks for a checkpoint to go on from says so
        if stored is not None:
            return RunSources(**stored)
    return None


def _with_changes(point: ResumePoint, before: Job, after: Job) -> ResumePoint:
    """From the resume on that changes what may change bits, a new count of equal ones begins."""
    changed = changes_of_bits(before, after)
    if not changed:
        return point
    return dataclasses.replace(point, changed=changed, same_since=point.generation)


def take_over(run_dir: RunDir) -> ResumePoint:
    """What the run's record says of its earlier life. `step`: of the newest committed
    checkpoint."""
    generation, step, same_since = 0, 0, 1
    changed: tuple[str, ...] = ()
    fired = set()
    for event in run_dir.read_events():
        generation = max(generation, event.generation)
        if isinstance(event, RunCreated):
            changed = event.changed
        elif isinstance(event, FirstStep) and changed:
            same_since, changed = event.generation, ()  # before that nothing was computed so
        elif isinstance(event, DrillFired):
            fired.add((event.step, event.worker))
        elif isinstance(event, CheckpointCommitted) and _exists(run_dir, event.step):
            step = max(step, event.step)
    return ResumePoint(generation + 1, step, frozenset(fired), same_since=same_since)


def refuse_if_alive(run_dir: RunDir) -> None:
    """LaunchError when a controller of this run answers: two at once would spoil it."""
    known = run_dir.read_controller()
    if known is not None and is_alive(run_dir):
        raise LaunchError(
            f"{run_dir.path}: this run is alive (controller process {known.pid} on "
            f"{known.machine}); `dougong stop {run_dir.path}` ends it"
        )


def _exists(run_dir: RunDir, step: int) -> bool:
    return any(run_dir.checkpoints.glob(f"step-{step:06d}*"))


def _run(
    job: Job,
    run_dir: RunDir,
    options: Options,
    resume_point: ResumePoint,
    sources: RunSources | None = None,
) -> int:
    deadlines = job.fault.limits()
    config = ControllerConfig(
        job=job,
        token=secrets.token_hex(32),
        cwd=os.getcwd(),
        entries=options.entries,
        resume_point=resume_point,
        deadlines=deadlines,
        sources=sources,
    )
    inbox = Inbox()
    # Signals are held until the report is drawn: nothing after the run's end may be cut short.
    view = make_view(Console(), job.job, job.steps, deadlines=deadlines)
    with view, signals_into(inbox):
        recorder = Recorder(run_dir, view, TensorBoardFiles(run_dir.tensorboard))
        recorder.record(_created(job, resume_point))
        backend = _backend(run_dir, options, deadlines)
        outcome = Controller(config, inbox, backend, recorder).run()
        recorder.close(_summary(outcome, run_dir, recorder))
    if outcome.error is not None:
        raise _last_words(outcome, run_dir)
    return outcome.status


def _created(job: Job, resume_point: ResumePoint) -> RunCreated:
    return RunCreated(
        generation=resume_point.generation,
        job=job.job,
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        machine=describe_machine(),
        changed=resume_point.changed,
    )


def _backend(run_dir: RunDir, options: Options, deadlines: Deadlines) -> Backend:
    if options.ray:
        return RayBackend(options.address, deadlines)
    return Local(run_dir, deadlines)


@contextlib.contextmanager
def signals_into(inbox: Inbox) -> Iterator[None]:
    """Signals become items of the inbox, so that the controller alone decides what they mean."""

    def note(number: int, frame: FrameType | None) -> None:
        inbox.put(SignalReceived(number))

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it stays ignored
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(outcome: Outcome, run_dir: RunDir, recorder: Recorder) -> str:
    try:
        report = write_report(run_dir)
    except Exception as error:
        # The run is over and recorded: a page that cannot be drawn must not change its outcome.
        of_ours = isinstance(error, DougongError)
        text = f"no report: {error}" if of_ours else f"no report: {type(error).__name__}: {error}"
        recorder.record(WarningRaised(generation=outcome.generation, text=text))
        return f"{outcome.state.lower()}: {run_dir.path}"
    return f"{closing_words(run_dir)}\nreport: {report}"


def _last_words(outcome: Outcome, run_dir: RunDir) -> DougongError:
    """The error with which the command ends: its last lines name the first worker's first error and
    the next step."""
    error, diagnosis = outcome.error, outcome.diagnosis
    assert error is not None
    lines = [str(error)]
    if diagnosis is not None:
        detail = diagnosis.detail.rstrip()
        lines = [detail, *lines] if detail else lines
        lines.append(f"its log: {run_dir.log_file(outcome.generation, diagnosis.worker)}")
    may_resume = isinstance(error, (WorkerError, LaunchError, CheckpointError))
    if may_resume and any(run_dir.checkpoints.glob("step-*")):
        lines.append(f"go on with: dougong resume {run_dir.path}")
    else:
        lines.append(f"the whole story: {run_dir.path}")
    return type(error)("\n".join(lines))
