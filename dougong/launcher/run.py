"""`dougong run` and `dougong resume`, without the words of the command line: a job in, an outcome
out."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from dougong.deadlines import DEADLINES
from dougong.errors import CheckpointError, DougongError, JobError, LaunchError, WorkerError
from dougong.job.load import ResolvedJob, load_job
from dougong.job.schema import Job
from dougong.launcher.backends.base import Backend
from dougong.launcher.backends.local import Local
from dougong.launcher.client import is_alive
from dougong.launcher.controller.config import (
    FROM_START,
    TRAINING,
    ControllerConfig,
    EntryPoints,
    Outcome,
    ResumePoint,
)
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbox import Inbox, SignalReceived
from dougong.planner.resume import check_resume
from dougong.records.directory import RunDir
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
    return _control(resolved.job, run_dir, options, FROM_START)


def resume_run(path: Path, overrides: Sequence[str], options: Options) -> int:
    """Go on with a run from its newest valid checkpoint. `overrides` may change where it runs, not
    what it computes."""
    run_dir = RunDir.open(path.absolute())
    refuse_if_alive(run_dir)
    before = load_job(run_dir.job_file, [])
    after = load_job(run_dir.job_file, list(overrides))
    check_resume(before.job, after.job)
    beginning = take_over(run_dir)
    if beginning.step >= after.job.steps:
        steps = after.job.steps
        raise JobError(
            f"{path}: step {beginning.step} of {steps} is done already; to go on further, add `-o steps={2 * steps}`"
        )
    run_dir.write_job(after.to_yaml())
    return _control(after.job, run_dir, options, beginning)


def take_over(run_dir: RunDir) -> ResumePoint:
    """What the run's record says of its earlier life. `step`: of the newest committed
    checkpoint."""
    events = run_dir.read_events()
    fired = frozenset((int(e["step"]), str(e["worker"])) for e in events if e["kind"] == "drill")
    committed = [int(e["step"]) for e in events if e["kind"] == "checkpoint_committed"]
    existing = [step for step in committed if _exists(run_dir, step)]
    return ResumePoint(
        1 + max((int(e["generation"]) for e in events), default=0), max(existing, default=0), fired
    )


def refuse_if_alive(run_dir: RunDir) -> None:
    """LaunchError when a controller of this run answers: two at once would spoil it."""
    known = run_dir.read_controller()
    if known is not None and is_alive(run_dir):
        raise LaunchError(
            f"{run_dir.path}: this run is alive (controller process {known['pid']} on {known['machine']}); "
            f"`dougong stop {run_dir.path}` ends it"
        )


def _exists(run_dir: RunDir, step: int) -> bool:
    return any(run_dir.checkpoints.glob(f"step-{step:06d}*"))


def _control(job: Job, run_dir: RunDir, options: Options, beginning: ResumePoint) -> int:
    inbox = Inbox()
    with make_view(Console(), job.job, job.steps) as view, signals_into(inbox):
        status: dict[str, Any] = {
            "job": job.job,
            "state": "STARTING",
            "generation": 0,
            "step": 0,
            "steps": job.steps,
        }
        scribe = Recorder(run_dir, view, TensorBoardFiles(run_dir.tensorboard), lambda: status)
        words = [Path(sys.argv[0]).name, *sys.argv[1:]]
        scribe.event(
            "created", beginning.generation, job=job.job, command=words, machine=describe_machine()
        )
        setting = ControllerConfig(
            job, secrets.token_hex(32), os.getcwd(), options.entries, beginning
        )
        controller = Controller(setting, inbox, _backend(run_dir, options), scribe)
        scribe.report_status(controller.status)
        outcome = controller.run()
        scribe.close(_summary(outcome, run_dir, scribe))
    if outcome.error is not None:
        raise _last_words(outcome, run_dir)
    return outcome.status


def _backend(run_dir: RunDir, options: Options) -> Backend:
    if not options.ray:
        return Local(run_dir, DEADLINES)
    from dougong.launcher.backends.ray_cluster import RayBackend

    return RayBackend(options.address, DEADLINES)


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


def _summary(outcome: Outcome, run_dir: RunDir, scribe: Recorder) -> str:
    try:
        report = write_report(run_dir)
    except Exception as error:  # the run is over and recorded: a page that cannot be drawn must not change its outcome
        scribe.event(
            "warning",
            outcome.generation,
            text=f"no report: {type(error).__name__}: {error}",
            workers=[],
        )
        return f"{outcome.state.lower()}: {run_dir.path}"
    return f"{closing_words(run_dir)}\nreport: {report}"


def _last_words(outcome: Outcome, run_dir: RunDir) -> DougongError:
    """The error with which the command ends: its last lines name the first worker's first error and
    the next step."""
    error, diagnosis = outcome.error, outcome.diagnosis
    assert error is not None
    lines = [str(error)]
    if diagnosis is not None:
        lines.insert(0, diagnosis.detail.rstrip()) if diagnosis.detail.strip() else None
        lines.append(f"its log: {run_dir.log_file(outcome.generation, diagnosis.worker)}")
    resumable = isinstance(error, (WorkerError, LaunchError, CheckpointError)) and any(
        run_dir.checkpoints.glob("step-*")
    )
    lines.append(
        f"go on with: dougong resume {run_dir.path}"
        if resumable
        else f"the whole story: {run_dir.path}"
    )
    return type(error)("\n".join(lines))
