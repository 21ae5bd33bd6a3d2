"""`dougong run` and `dougong resume` without the command line: a job in, an outcome out."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from dougong.checkpoint.proof.signing import SigningKey
from dougong.deadlines import Deadlines
from dougong.errors import (
    DougongError,
    SupersededError,
    WorkerError,
)
from dougong.job.fault_rules import doubts
from dougong.job.load import ResolvedJob, placed
from dougong.job.schema import Job
from dougong.launcher.agent.here.open_files import raise_open_files
from dougong.launcher.alive import become_controller, refuse_if_alive
from dougong.launcher.backends.base import Backend
from dougong.launcher.backends.local import Local
from dougong.launcher.backends.process.proxy import ProcessBackend
from dougong.launcher.backends.ray_choice import OWN_RAY, RayChoice
from dougong.launcher.controller.config import (
    FROM_START,
    TRAINING,
    ControllerConfig,
    EntryPoints,
    ResumePoint,
)
from dougong.launcher.controller.controller import Controller
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import SuccessorFound
from dougong.launcher.controller.states import Outcome
from dougong.launcher.decay import bent_rate, with_decay_end
from dougong.launcher.kept.keeping import Keeping
from dougong.launcher.next_job import next_job, recorded_job
from dougong.launcher.ports import with_ports
from dougong.launcher.refused import RunBefore, as_before_words, take_back
from dougong.launcher.signals import signals_into
from dougong.launcher.signing.key_file import named_key
from dougong.launcher.signing.key_of_run import key_of_resume, key_of_run
from dougong.launcher.sources import known_sources
from dougong.launcher.supervisor import ControllerDeath
from dougong.launcher.take_over import (
    beginning_words,
    lost_history_words,
    of_follower,
    refuse_if_done,
    take_over,
    with_memory,
)
from dougong.planner.resume import changes_of_bits, check_lift
from dougong.records.claim import Claim, claim
from dougong.records.directory import RunDir
from dougong.records.events import (
    FailureDiagnosed,
    NoteTaken,
    RunCreated,
    RunEnded,
    WarningRaised,
)
from dougong.records.files import exposed_words, make_run_folder
from dougong.records.lease import Lease
from dougong.records.machine import describe_machine
from dougong.records.rebuilt_status import known_status
from dougong.storage.screen import Screen
from dougong.storage.trouble import NO_ANSWER, Trouble
from dougong.ui.event_words import unwritten_words
from dougong.ui.history import closing_words
from dougong.ui.next_step import MISTAKES, after_refusal, next_step
from dougong.ui.recorder import Recorder
from dougong.ui.report.page import write_report
from dougong.ui.tensorboard_files import TensorBoardFiles
from dougong.ui.view import make_view


@dataclass(frozen=True)
class Options:
    """How to run. `choice`: over which Ray; `ray` False: subprocesses of this machine. `wait_s`:
    how long to wait for room and for nodes; None: as long as `Deadlines` says. `keeping`: with the
    command beside, by which another controller follows; None: none does."""

    choice: RayChoice = OWN_RAY
    ray: bool = True
    entries: EntryPoints = TRAINING
    wait_s: float | None = None
    keeping: Keeping | None = None

    def limits(self, deadlines: Deadlines) -> Deadlines:
        """The job's limits, with what the command line has said."""
        if self.wait_s is None:
            return deadlines
        return dataclasses.replace(deadlines, room_s=self.wait_s, nodes_join_s=self.wait_s)


@dataclass(frozen=True)
class ResumeRequest:
    """From where a run is to go on. `step`: from this one's checkpoint, None from the newest valid
    one; `from_scratch`: from the beginning. `takes_over`: a controller on another machine, that
    cannot be reached, is dead by the user's word. `job`: the job as it is given anew; None: as the
    run has it."""

    step: int | None = None
    from_scratch: bool = False
    takes_over: bool = False
    job: ResolvedJob | None = None

    @property
    def chosen(self) -> int | None:
        """As in `ResumePoint`."""
        return 0 if self.from_scratch else self.step


@dataclass(frozen=True)
class Launch:
    """One controller's part of a run. `job_text`: what job.yaml says once it trains, None where it
    says so already; `notes` and `warnings`: what is told at its start; `follows`: the death after
    which it goes on by itself; `key`: by which checkpoints are signed; `before`: of a resume that
    somebody typed, what the directory held."""

    job: Job
    run_dir: RunDir
    lease: Lease
    resume_point: ResumePoint = FROM_START
    job_text: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    follows: ControllerDeath | None = None
    key: SigningKey | None = None
    before: RunBefore | None = None


def start_run(resolved: ResolvedJob, path: Path, options: Options, takes_over: bool = False) -> int:
    """A new run in a new run directory, or in one whose run has come to nothing; returns the exit
    status. `takes_over`: as in `ResumeRequest`. Raises what ended it, when that is an error."""
    path, resolved = path.absolute(), with_decay_end(resolved)
    job = with_ports(resolved.job)
    named_key(job.checkpoint.sign)  # a wrong one is told before there is a directory
    make_run_folder(path)  # what stands in its way is no damage of a run
    refuse_if_alive(RunDir(path))
    with claim(path, takes_over, tell=_say) as claimed:
        run_dir = claimed.run_dir
        run_dir.write_job(resolved.to_yaml())
        key = key_of_run(run_dir.path, job.checkpoint.sign, is_new=True)
        launch = Launch(job, run_dir, claimed.lease, notes=_notes_on(claimed), key=key)
        with placed(resolved):
            return _run(launch, options)


def _notes_on(claimed: Claim) -> tuple[str, ...]:
    if claimed.earlier is None:
        return ()
    text = (
        f"a run that had committed no checkpoint lay here; its record is kept in {claimed.earlier}"
    )
    return (text,)


def _say(text: str) -> None:
    """A word to whoever waits at the terminal, before there is a view."""
    print(text, file=sys.stderr, flush=True)


def resume_run(
    path: Path,
    overrides: Sequence[str],
    options: Options,
    request: ResumeRequest | None = None,
    follows: ControllerDeath | None = None,
) -> int:
    """Go on with a run from its newest valid checkpoint, or as `request` says. `overrides` may
    change where it runs, not what it computes. Until it trains again, job.yaml stays as it was.
    `follows`: the death of the controller before, where nobody has typed a command since.

    StepsDoneError when there is no step to go on with."""
    request = request or ResumeRequest()
    run_dir = RunDir.open(path.absolute())
    with become_controller(run_dir, request.takes_over, tell=_say) as lease:
        run_dir = run_dir.of_writer(lease.fence)
        held = RunBefore(run_dir)
        before = recorded_job(run_dir)
        after = next_job(before, run_dir, overrides, request.job)
        resume_point = take_over(run_dir, request.chosen)
        check_lift(after.job.fault.quarantine.lift, resume_point.quarantined)
        resume_point = _with_changes(resume_point, before.job, after.job)
        resume_point = with_memory(resume_point, run_dir, before.job, after.job)
        if follows is not None:
            died = (follows.fault_at, follows.noticed_at)
            resume_point = of_follower(resume_point, run_dir.read_events(), died)
        job = with_ports(after.job)
        signed, signs = before.job.checkpoint.sign, job.checkpoint.sign
        has_committed, chosen = resume_point.has_committed, resume_point.chosen
        key = key_of_resume(run_dir, signed, signs, has_committed, chosen)
        resume_point = refuse_if_done(run_dir, resume_point, after.job.steps, key)
        warnings = _warnings_of(run_dir, before.job, after.job, resume_point)
        launch = Launch(
            job, run_dir, lease, resume_point, after.to_yaml(), (), warnings, follows, key, held
        )
        with placed(after):
            return _run(launch, options)


def end_lost_run(path: Path, death: ControllerDeath) -> int:
    """Write down that a run has ended whose controllers die, and raise why as a WorkerError."""
    found = RunDir.open(path.absolute())
    with become_controller(found) as lease:
        run_dir = found.of_writer(lease.fence)
        status, _ = known_status(run_dir)
        generation, diagnosis = status.generation, death.diagnosis
        run_dir.append_event(FailureDiagnosed.of(generation, diagnosis, ()))
        ended = RunEnded(
            kind="failed",
            generation=generation,
            step=status.step,
            cause=f"{diagnosis.cause}; {death.in_vain}",
            node=diagnosis.culprit.node,
            culprit=diagnosis.culprit,
            failure=diagnosis.kind,
        )
        run_dir.append_event(ended)
        run_dir.write_status(status.left_by_all("FAILED"))
        error = WorkerError(f"{diagnosis}; {death.in_vain}")
        outcome = Outcome("FAILED", 1, error, diagnosis, generation)
        report, why_none = _report_line(run_dir)
        print("\n".join((_closing_words(outcome, run_dir), report or why_none)), flush=True)
    raise _last_words(outcome, run_dir)


def _with_changes(point: ResumePoint, before: Job, after: Job) -> ResumePoint:
    """From the resume on that changes what may change bits, a new count of equal ones begins."""
    changed = changes_of_bits(before, after)
    if not changed:
        return point
    # Steps that were left out before were computed otherwise.
    same_since = point.generation
    return dataclasses.replace(point, changed=changed, same_since=same_since, skipped=frozenset())


def _warnings_of(run_dir: RunDir, before: Job, after: Job, point: ResumePoint) -> tuple[str, ...]:
    """What is told at the start of a resume from there."""
    bent = bent_rate(before, after, point.step + 1)
    return tuple(filter(None, (lost_history_words(run_dir, point), bent)))


def _run(launch: Launch, options: Options) -> int:
    job, run_dir = launch.job, launch.run_dir
    config = _config(launch, options)
    deadlines = config.deadlines
    raise_open_files()
    inbox = Inbox()
    screen = Screen(sys.stdout, deadlines)
    view = make_view(Console(file=cast("IO[str]", screen)), job.job, job.steps, deadlines=deadlines)
    launch.lease.when_lost(lambda who: inbox.put(SuccessorFound(who)))
    # Signals are held until the report is drawn: nothing after the run's end may be cut short.
    with screen, view, signals_into(inbox):
        recorder = Recorder(run_dir, view, TensorBoardFiles(run_dir.tensorboard), deadlines)
        _tell_start(launch, options, recorder)
        backend = _backend(run_dir, options, deadlines, inbox)
        outcome = Controller(config, inbox, backend, recorder).run()
        if isinstance(outcome.error, SupersededError):
            recorder.close(str(outcome.error))
            raise outcome.error
        limit_s = deadlines.records_end_s
        is_as_before = False
        if launch.before is not None and outcome.refused and not recorder.settle(limit_s):
            is_as_before = take_back(launch.before, outcome, run_dir)
        words = as_before_words(run_dir) if is_as_before else ""
        recorder.close(words or _summary(outcome, run_dir, recorder, limit_s))
    if outcome.error is not None:
        raise _last_words(outcome, run_dir, is_as_before)
    return outcome.status


def _config(launch: Launch, options: Options) -> ControllerConfig:
    return ControllerConfig(
        job=launch.job,
        token=secrets.token_hex(32),
        cwd=os.getcwd(),
        fence=launch.lease.fence,
        entries=options.entries,
        resume_point=launch.resume_point,
        deadlines=options.limits(launch.job.fault.limits()),
        job_text=launch.job_text,
        sources=known_sources(launch.run_dir),
        is_followed=options.keeping is not None,
        outlives=options.ray and options.choice.address is not None,
        key=launch.key,
    )


def _tell_start(launch: Launch, options: Options, recorder: Recorder) -> None:
    generation, choice = launch.resume_point.generation, options.choice
    created = RunCreated(
        generation=generation,
        job=launch.job.job,
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        machine=describe_machine(),
        changed=launch.resume_point.changed,
        address=choice.address or "",
    )
    recorder.record(created)
    if launch.follows is not None:
        recorder.record(FailureDiagnosed.of(generation - 1, launch.follows.diagnosis, ()))
    begins = beginning_words(launch.resume_point) if launch.follows is None else ""
    notes = (choice.note, *launch.notes, begins)
    for text in filter(None, notes):
        recorder.record(NoteTaken(generation=generation, text=text))
    for text in doubts(launch.job, is_new=generation == 1):
        recorder.record(WarningRaised(generation=generation, text=text))
    for text in filter(None, (*launch.warnings, exposed_words(launch.run_dir.path))):
        recorder.record(WarningRaised(generation=generation, text=text))


def _backend(run_dir: RunDir, options: Options, deadlines: Deadlines, inbox: Inbox) -> Backend:
    if options.ray:
        return ProcessBackend(options.choice, deadlines, run_dir, inbox.put, options.keeping)
    return Local(run_dir, deadlines, options.keeping)


def _summary(outcome: Outcome, run_dir: RunDir, recorder: Recorder, limit_s: float) -> str:
    """The run's last words, when its record is written, or has not been for so long."""
    left = recorder.settle(limit_s)
    if any(trouble.reason == NO_ANSWER for trouble in left):
        # Nothing may be read or written there any more: it would not come back.
        return _with_unwritten(f"{outcome.state.lower()}: {run_dir.path}", left)
    if not run_dir.job_file.is_file():
        # What is left of its record would read as that of a run that has not begun.
        return f"{outcome.state.lower()}: {run_dir.path}: the run directory is gone"
    words = _with_unwritten(_closing_words(outcome, run_dir), left)
    report, why_none = _report_line(run_dir)
    if why_none:
        recorder.record(WarningRaised(generation=outcome.generation, text=why_none))
    return f"{words}\n{report}" if report else words


def _report_line(run_dir: RunDir) -> tuple[str, str]:
    """Draw the report: where it is, or why there is none. The run is over and recorded: a page that
    cannot be drawn must not change its outcome."""
    try:
        return f"report: {write_report(run_dir)}", ""
    except DougongError as error:
        return "", f"no report: {error}"
    except Exception as error:
        return "", f"no report: {type(error).__name__}: {error}"


def _with_unwritten(words: str, left: Sequence[Trouble]) -> str:
    return "\n".join((words, *[unwritten_words(trouble) for trouble in left]))


def _closing_words(outcome: Outcome, run_dir: RunDir) -> str:
    try:
        # An error's last words come after these, and say what is next.
        state = "refused" if outcome.refused else outcome.state.lower()
        return closing_words(run_dir, state, says_next=outcome.error is None)
    except DougongError:  # a record that cannot be read either
        return f"{outcome.state.lower()}: {run_dir.path}"


def _last_words(outcome: Outcome, run_dir: RunDir, is_as_before: bool = False) -> DougongError:
    """The error with which the command ends: its last lines name the first worker's first error and
    the next step. `is_as_before`: the record holds nothing of it."""
    error, diagnosis = outcome.error, outcome.diagnosis
    assert error is not None
    lines = [str(error)]
    if diagnosis is not None:
        # A mistake in the job is a sentence: where dougong noticed it helps nobody.
        detail = "" if diagnosis.kind in MISTAKES else diagnosis.detail.rstrip()
        lines = [detail, *lines] if detail else lines
        # A worker that could not be begun has no log, and an agent's is no reader's first place.
        if diagnosis.worker:
            log = run_dir.log_file(outcome.generation, diagnosis.worker)
            lines += [f"its log: {log}"] if log.is_file() else []
    with contextlib.suppress(DougongError):  # a record that cannot be read: the error matters more
        path, events = run_dir.path, run_dir.read_events()
        following = next_step(path, outcome.state.lower(), events)
        if is_as_before:
            following = after_refusal(path, events, sys.argv[1:])
        lines.append(f"next: {following}")
    return outcome.told("\n".join(lines))
