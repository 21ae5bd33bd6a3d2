"""What a forked worker process is made of: its context, its line to the agent, and how it ends.

torch is imported by the entry that runs here, never by this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from enum import Enum, auto
from pathlib import Path
from typing import Any, NoReturn

from dougong.control.channel import Channel
from dougong.control.fork_messages import ForkRequest
from dougong.control.messages import JoinGeneration
from dougong.control.plan_file import ReadPlan, read_plan
from dougong.control.processes import title_process
from dougong.control.progress import OrderedFault, ProgressVector
from dougong.control.run_sources import changed_files
from dougong.control.tasks import FingerprintTask, InspectTask, TrainTask
from dougong.control.worker.line import WorkerLine
from dougong.control.worker_api import Kept, WorkerContext
from dougong.control.worker_messages import (
    FingerprintFound,
    ModelFound,
    StoreReply,
    StoreRequest,
    WorkerDone,
    WorkerLeft,
    WorkerMessage,
    WorkerRaised,
    WorkerRests,
)
from dougong.deadlines import Deadlines
from dougong.errors import (
    CorruptionError,
    DougongError,
    NumericsError,
    PeerError,
    RestError,
)
from dougong.fault.drill import own_drills
from dougong.fingerprint.cache import Probing
from dougong.fingerprint.record import JobShapes
from dougong.job.schema import Job
from dougong.job.settled import settle
from dougong.parallel.plan import Plan

_PACKAGE = Path(__file__).resolve().parents[2]
"""The folder of this package's sources."""


class AgentControl:
    """Control over a worker's line and its shared vector, for the line's present generation."""

    def __init__(self, line: WorkerLine, vector: ProgressVector) -> None:
        self._line, self._vector = line, vector
        self._generation = line.generation
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._is_over = False
        self._free: Callable[[], None] = _nothing
        self._leave: Callable[[], int] = _no_state

    def progress(self, step: int, phase: str, operation: int) -> None:
        self._vector.write(step, phase, operation)

    def waits_for(self, ranks: Collection[int]) -> None:
        # What other threads wait for holds nobody up, as long as the worker itself does not.
        if threading.get_ident() == self._thread:
            self._vector.wait_for(ranks)

    def send(self, message: WorkerMessage) -> None:
        # A thread that outlives its generation, such as one that writes to slow storage, must not
        # speak within the next one.
        with self._lock:
            if not self._is_over:
                self._line.send(message)

    def take_fault(self) -> OrderedFault | None:
        return self._vector.take_fault()

    @property
    def stop_requested(self) -> bool:
        return self._vector.stop_requested

    @property
    def rest_requested(self) -> bool:
        return self._vector.rest_requested

    @property
    def leave_requested(self) -> bool:
        return self._line.is_over(self._generation)

    def ask(
        self, question: Callable[[int], StoreRequest], timeout_s: float, limit: str = ""
    ) -> StoreReply:
        return self._line.ask(question, timeout_s, limit)

    def at_leaving(self, free: Callable[[], None], leave: Callable[[], int]) -> None:
        self._free, self._leave = free, leave
        self._line.free_by(free)

    def leave(self) -> WorkerLeft:
        """End the generation in this process; what is said of it."""
        with self._lock:
            self._is_over = True
        self._free()
        step = self._leave()
        self._vector.write(0, "start", 0)
        return WorkerLeft(step)


def run_child(request: ForkRequest, fds: list[int], deadlines: Deadlines) -> NoReturn:
    """The life of a forked process: take over the descriptors (socket, log, vector), run the task,
    report its result or its error, end. A training worker that loses its peers goes on as a worker
    of the next generation."""
    title_process(title_of(request))
    sock, log, vector = fds
    _take_over_output(log)
    line = WorkerLine(Channel(socket.socket(fileno=sock), "agent", deadlines), deadlines)
    progress = ProgressVector(vector)
    progress.beat(deadlines.look_every_s)
    code = _Life(line, progress, deadlines).live(request)
    # A full log disk must not turn a finished worker into a failed one.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # No exit handlers: they belong to the zygote, and a library's may wait for a dead peer.
    os._exit(code)


def title_of(request: ForkRequest) -> str:
    """By which `ps` shows a worker, or a child that looks at something in its name."""
    task = request.task
    what = "worker" if isinstance(task, TrainTask) else task.task
    return f"dougong {what} {request.worker}"


class _End(Enum):
    """How a worker's part in a generation has ended."""

    DONE = auto()
    FAILED = auto()
    LOST_PEER = auto()
    """Or rests: in both cases the process goes on in the next generation."""


class _Life:
    """A worker process from one generation to the next."""

    def __init__(self, line: WorkerLine, vector: ProgressVector, deadlines: Deadlines) -> None:
        self._line, self._vector, self._deadlines = line, vector, deadlines
        self._kept = Kept()

    def live(self, request: ForkRequest) -> int:
        """Until the work is done, an error ends it, or there is no next generation; the exit
        status."""
        while True:
            self._line.begin(request.generation)
            control = AgentControl(self._line, self._vector)
            end = self._run(request, control)
            if end is not _End.LOST_PEER:
                return 0 if end is _End.DONE else 1
            join = self._go_over(control)
            if join is None:
                return 1
            request = dataclasses.replace(
                request, generation=join.generation, task=join.task, address=join.address
            )

    def _run(self, request: ForkRequest, control: AgentControl) -> _End:
        """Do the task, and say how that ended before anything else is done: to leave a generation
        may take long, and the controller acts on what it knows."""
        try:
            control.send(_run_task(request, control, self._kept, self._deadlines))
            return _End.DONE
        except RestError:
            control.send(WorkerRests())
            return _End.LOST_PEER
        except PeerError as error:
            # Freed by order, a worker has nothing to tell.
            if not control.leave_requested:
                control.send(dataclasses.replace(describe_error(error), stays=True))
                _print(error)
            return _End.LOST_PEER
        except BaseException as error:
            control.send(describe_error(error))
            _print(error)
            return _End.FAILED

    def _go_over(self, control: AgentControl) -> JoinGeneration | None:
        """Leave the generation when that is asked for, and wait for the next one. None: there will
        be none."""
        try:
            self._line.await_leave()
            self._line.send(control.leave())
            return self._line.await_join()
        except (OSError, EOFError, PeerError) as error:  # a TimeoutError is an OSError
            print(f"this worker ends: {error}", file=sys.stderr)
            return None


def _print(error: BaseException) -> None:
    """What dougong raises on purpose says in its sentence what is wrong and what to do, or which
    peer was lost; everything else shows where it happened."""
    if isinstance(error, DougongError):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def describe_error(error: BaseException) -> WorkerRaised:
    """An exception as a message."""
    return WorkerRaised(
        type=type(error).__name__,
        bases=tuple(base.__name__ for base in type(error).__mro__),
        message=str(error) or type(error).__name__,
        traceback=_traceback_of(error),
        errno=error.errno if isinstance(error, OSError) else None,
        place=_place_of(error),
        waited_for=error.waited_for if isinstance(error, PeerError) else (),
        accused=error.accused if isinstance(error, CorruptionError) else (),
    )


def _traceback_of(error: BaseException) -> str:
    """Empty where our own code is not where the fault is."""
    if isinstance(error, NumericsError | CorruptionError):
        return ""
    return "".join(traceback.format_exception(error))


def _place_of(error: BaseException) -> str:
    """Where it was raised: the last line of ours that was being executed, so that one mistake in a
    library has the name of the call that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not frames:
        return ""
    last = (ours or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def resolve(entry: str) -> Callable[..., Any]:
    """The function that `module:name` names."""
    module, _, name = entry.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _nothing() -> None:
    """A generation that has no connections."""


def _no_state() -> int:
    """A generation of which nothing is kept."""
    return 0


def _run_task(
    request: ForkRequest, control: AgentControl, kept: Kept, deadlines: Deadlines
) -> WorkerMessage:
    """Do what the process was forked for; what the controller waits for in the end."""
    match request.task:
        case TrainTask() as task:
            return _train(task, request, control, kept, deadlines)
        case InspectTask() as task:
            return _inspect(task)
        case FingerprintTask() as task:
            return _fingerprint(task, request.worker)


def _train(
    task: TrainTask,
    request: ForkRequest,
    control: AgentControl,
    kept: Kept,
    deadlines: Deadlines,
) -> WorkerDone:
    plan = _plan_of(task, kept, deadlines)
    context = WorkerContext(
        job=_settled(task),
        plan=plan,
        worker=plan.worker(request.worker),
        generation=request.generation,
        run_dir=Path(task.run_dir),
        resume=Path(task.resume) if task.resume is not None else None,
        address=request.address,
        drills=own_drills(task.drills, request.worker),
        control=control,
        sources=task.sources,
        fence=task.fence,
        life=task.life,
        rolls_back=task.rolls_back,
        skips=task.skips,
        kept=kept,
        recorded=task.recorded,
    )
    resolve(task.entry)(context)
    return WorkerDone()


def _plan_of(task: TrainTask, kept: Kept, deadlines: Deadlines) -> Plan:
    """What a worker has read once it does not read again for the next generation."""
    if isinstance(task.plan, Plan):
        return task.plan
    known = kept.get(ReadPlan)
    if known is None or known.digest != task.plan.digest:
        known = read_plan(task.plan, deadlines)
        kept.keep(known)
    return known.plan


def _inspect(task: InspectTask) -> ModelFound:
    found = resolve(task.entry)(_settled(task), task.sources)
    shapes = dataclasses.asdict(found.shapes) if found.shapes is not None else None
    return ModelFound(
        found.inventory, dict(found.data), shapes, found.notes, found.warnings, found.sources
    )


def _settled(task: TrainTask | InspectTask) -> Job:
    """The task's job as the run began it, whatever has become of the files that it names."""
    known = task.sources
    if known is None:
        return task.job
    moved = bool(known.tokenizer and changed_files(known.tokenizer))
    own_copy = task.tokenizer if moved else None
    return settle(task.job, known.config, known.config_class, own_copy, known.attention)


def _fingerprint(task: FingerprintTask, worker: str) -> FingerprintFound:
    accelerator, _, index = task.devices[worker].rpartition(":")
    shapes = JobShapes.from_json(task.shapes) if task.shapes is not None else None
    probing = Probing(accelerator, int(index), task.job, shapes, worker)
    return FingerprintFound(resolve(task.entry)(probing).to_json())


def _take_over_output(log: int) -> None:
    """Standard output and error become the log, standard input nothing."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    faulthandler.enable()
    # SIGINT stays ignored: a terminal's Ctrl-C is the controller's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
