"""A run on this machine without Ray and without a view: what `dougong prove` and `dougong diff
--trace` consist of."""

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
from dougong.errors import DougongError, LaunchError
from dougong.fault.diagnosis import Diagnosis
from dougong.job.load import ResolvedJob
from dougong.job.schema import Fault, Island, Job
from dougong.launcher.backends.local import Local
from dougong.launcher.controller.config import TRAINING, ControllerConfig, EntryPoints
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbox import Inbox
from dougong.launcher.controller.items import SignalReceived
from dougong.launcher.run import signals_into, take_over
from dougong.records.directory import RunDir
from dougong.records.partial_run import PartialRun
from dougong.ui.recorder import Recorder
from dougong.ui.view import make_view

NEVER = 2**31 - 1
ENTRIES = EntryPoints(
    "dougong.training.partial_run:train",
    TRAINING.inspect,
    ("dougong.training.partial_run", *TRAINING.preload),
)


@dataclass(frozen=True)
class LocalRunOptions:
    """How trials are run: what workers run, and the seconds after which a trial is given up."""

    entries: EntryPoints = ENTRIES
    timeout_s: float = 600.0


def try_out(job: Job, path: Path, request: PartialRun, bench: LocalRunOptions) -> RunDir:
    """Run a part of a job in `path`: a new run directory, or one with a run to go on with.
    Leaves no process.

    Raises what ended the run, `LaunchError` after the bench's time, KeyboardInterrupt when the user
    stops it.
    """
    known = (path / "events.jsonl").exists()
    run_dir = RunDir.open(path) if known else RunDir.create(path)
    run_dir.write_job(ResolvedJob(job, {}).to_yaml())
    request.write(run_dir.path)
    inbox = Inbox()
    with make_view(Console(quiet=True), job.job, job.steps) as view, signals_into(inbox):
        recorder = Recorder(run_dir, view, None)
        config = ControllerConfig(
            job, secrets.token_hex(32), os.getcwd(), bench.entries, take_over(run_dir)
        )
        with _deadline(inbox, bench.timeout_s) as late:
            outcome = Controller(config, inbox, Local(run_dir, DEADLINES), recorder).run()
        recorder.close("")
    if outcome.error is not None:
        raise _with_detail(outcome.error, outcome.diagnosis)
    if late.is_set():
        raise LaunchError(
            f"{path}: not done within {bench.timeout_s:g} s; give it more by --timeout"
        )
    if outcome.state != "FINISHED":
        raise KeyboardInterrupt
    return run_dir


def on_trial(job: Job, islands: tuple[Island, ...], **changes: object) -> Job:
    """The job on other islands of this machine, without what is of no matter to its bits:
    checkpoints on the way, validation, drills, recoveries."""
    here = tuple(island.model_copy(update={"node": None}) for island in islands)
    every = job.checkpoint.model_copy(update={"every": 0, "keep": NEVER})
    data = job.data
    if data.validation is not None:
        seldom = data.validation.model_copy(update={"every": NEVER, "batches": 1})
        data = data.model_copy(update={"validation": seldom})
    alone = {
        "islands": here,
        "checkpoint": every,
        "data": data,
        "drill": (),
        "fault": Fault(max_restarts=0),
    }
    return job.model_copy(update=alone | changes)


def _with_detail(error: DougongError, diagnosis: Diagnosis | None) -> DougongError:
    """The error with the first failed worker's own words, which its log may not outlive."""
    detail = diagnosis.detail.strip() if diagnosis is not None else ""
    return type(error)(f"{detail}\n{error}" if detail else str(error))


@contextmanager
def _deadline(inbox: Inbox, timeout_s: float) -> Iterator[threading.Event]:
    """Stops the run after so many seconds; the event says that it did."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        for _ in range(2):  # the second one does not wait for the step
            inbox.put(SignalReceived(signal.SIGTERM))

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
