"""A run on this machine without Ray and without a view.

`dougong prove` and `dougong diff --trace` consist of such runs.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dougong.deadlines import DEADLINES
from dougong.errors import DougongError, LaunchError, StorageError
from dougong.job.load import ResolvedJob
from dougong.job.parts.data import Data
from dougong.job.schema import Island, Job
from dougong.launcher.backends.local import Local
from dougong.launcher.controller.config import TRAINING, ControllerConfig, EntryPoints
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import SignalReceived
from dougong.launcher.controller.states import Outcome
from dougong.launcher.signals import signals_into
from dougong.launcher.sources import known_sources
from dougong.launcher.take_over import take_over
from dougong.records.directory import RunDir
from dougong.records.partial_run import PartialRun
from dougong.ui.event_words import unwritten_words
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view

NEVER = 2**31 - 1
"""A step that no run reaches."""
PARTIAL_RUN = EntryPoints(
    "dougong.training.partial_run:train",
    TRAINING.inspect,
    ("dougong.training.partial_run", *TRAINING.preload),
)


@dataclass(frozen=True)
class LocalRunOptions:
    """`entries`: what the workers run; `timeout_s`: seconds after which a run is given up."""

    entries: EntryPoints = PARTIAL_RUN
    timeout_s: float = DEADLINES.local_run_s


def run_here(job: Job, path: Path, request: PartialRun, options: LocalRunOptions) -> RunDir:
    """Run a part of a job in `path`: a new run directory, or one with a run to go on with.

    Leaves no process. Raises what ended the run, `LaunchError` after `timeout_s`, KeyboardInterrupt
    when the user stops it.
    """
    goes_on = (path / "events.jsonl").exists()
    run_dir = RunDir.open(path) if goes_on else RunDir.create(path)
    run_dir.write_job(ResolvedJob(job, {}).to_yaml())
    request.write(run_dir.path)
    outcome = _control(job, run_dir, options)
    if outcome.error is not None:
        raise _with_detail(outcome)
    if outcome.state != "FINISHED":
        raise KeyboardInterrupt
    return run_dir


def _control(job: Job, run_dir: RunDir, options: LocalRunOptions) -> Outcome:
    token = secrets.token_hex(32)
    deadlines = job.fault.limits()
    config = ControllerConfig(
        job=job,
        token=token,
        cwd=os.getcwd(),
        entries=options.entries,
        resume_point=take_over(run_dir),
        deadlines=deadlines,
        sources=known_sources(run_dir),
    )
    inbox = Inbox()
    view = make_view(Console(quiet=True), job.job, job.steps, deadlines=deadlines)
    with view, signals_into(inbox):
        recorder = Recorder(run_dir, view, None, deadlines)
        backend = Local(run_dir, deadlines)
        with _deadline(inbox, options.timeout_s) as is_late:
            outcome = Controller(config, inbox, backend, recorder).run()
        left = recorder.settle(deadlines.records_end_s)
        recorder.close("")
    if left:
        raise StorageError("; ".join(unwritten_words(trouble) for trouble in left))
    if outcome.error is None and is_late.is_set():
        raise LaunchError(
            f"{run_dir.path}: not done within {options.timeout_s:g} s; give it more by --timeout"
        )
    return outcome


def on_this_machine(job: Job, islands: tuple[Island, ...]) -> Job:
    """The job on other islands, all on this machine, without what its bits do not depend on:
    checkpoints on the way, validation, drills, recoveries."""
    return job.model_copy(
        update={
            "islands": tuple(island.model_copy(update={"node": None}) for island in islands),
            "checkpoint": job.checkpoint.model_copy(update={"every": 0, "keep": NEVER}),
            "data": _without_validation(job.data),
            "drill": (),
            "fault": job.fault.model_copy(update={"max_restarts": 0}),
        }
    )


def _without_validation(data: Data) -> Data:
    """The same training data. Its held-out part stays apart, and is never looked at."""
    if data.validation is None:
        return data
    never = data.validation.model_copy(update={"every": NEVER, "batches": 1})
    return data.model_copy(update={"validation": never})


def _with_detail(outcome: Outcome) -> DougongError:
    """The error with the first failed worker's own words, which its log may not outlive."""
    detail = outcome.diagnosis.detail.strip() if outcome.diagnosis is not None else ""
    return outcome.told(f"{detail}\n{outcome.error}" if detail else str(outcome.error))


@contextmanager
def _deadline(inbox: Inbox, timeout_s: float) -> Iterator[threading.Event]:
    """Stops the run after so many seconds; the event says that it did."""
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        # As a user who presses Ctrl-C twice: the second one does not wait for the step.
        inbox.put(SignalReceived(signal.SIGTERM))
        inbox.put(SignalReceived(signal.SIGTERM))

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()
