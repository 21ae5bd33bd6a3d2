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
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dougong.control.channel import Channel, Message
from dougong.control.progress import ProgressVector
from dougong.control.worker_api import WorkerContext
from dougong.errors import DougongError, JobError
from dougong.fingerprint.cache import Probing
from dougong.fingerprint.record import JobShapes
from dougong.job.schema import Drill, Job
from dougong.parallel.plan import Plan


class AgentControl:
    """Control over the socket and the shared vector that a worker is forked with."""

    def __init__(self, channel: Channel, vector: ProgressVector, generation: int) -> None:
        self._channel, self._vector, self._generation = channel, vector, generation

    def progress(self, step: int, phase: str, operation: int) -> None:
        self._vector.write(step, phase, operation)

    def send(self, kind: str, **fields: Any) -> None:
        self._channel.send(kind, self._generation, **fields)

    @property
    def stop_requested(self) -> bool:
        return self._vector.stop_requested


def run_child(request: Message, fds: list[int]) -> NoReturn:
    """The life of a forked process: take over the descriptors (socket, log, vector), run the task,
    tell, end."""
    sock, log, vector = fds
    _take_over(log)
    channel = Channel(socket.socket(fileno=sock))
    control = AgentControl(channel, ProgressVector(vector), request["generation"])
    try:
        _TASKS[request["task"]](request, control)
        code = 0
    except BaseException as error:
        _print(error)
        control.send("error", **describe_error(error))
        code = 1
    with contextlib.suppress(
        OSError
    ):  # a full log disk must not turn a finished worker into a failed one
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(
        code
    )  # no exit handlers: they belong to the zygote, and a library's may wait for a dead peer


def _print(error: BaseException) -> None:
    """A user's mistake is one line; everything else shows where it happened."""
    if isinstance(error, DougongError) and error.exit_status == JobError.exit_status:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception as a message: `type`, `bases` (names of all its classes), `message`,
    `traceback`."""
    return {
        "type": type(error).__name__,
        "bases": [c.__name__ for c in type(error).__mro__],
        "message": str(error) or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }


def resolve(entry: str) -> Callable[..., Any]:
    """The function that `module:name` names."""
    module, _, name = entry.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _train(request: Message, control: AgentControl) -> None:
    plan = Plan.from_json(request["plan"])
    drills = tuple(
        Drill.model_validate(d) for d in request["drills"] if d["kill"] == request["worker"]
    )
    context = WorkerContext(
        job=Job.model_validate_json(request["job"]),
        plan=plan,
        worker=plan.worker(request["worker"]),
        generation=request["generation"],
        run_dir=Path(request["run_dir"]),
        resume=Path(request["resume"]) if request["resume"] else None,
        store=(request["store"][0], request["store"][1]),
        address=request["address"],
        drills=drills,
        control=control,
    )
    resolve(request["entry"])(context)
    control.send("done")


def _inspect(request: Message, control: AgentControl) -> None:
    found = resolve(request["entry"])(Job.model_validate_json(request["job"]))
    shapes = dataclasses.asdict(found.shapes) if found.shapes is not None else None
    control.send(
        "inspected", inventory=dataclasses.asdict(found.inventory), data=found.data, shapes=shapes
    )


def _fingerprint(request: Message, control: AgentControl) -> None:
    accelerator, _, index = request["devices"][request["worker"]].rpartition(":")
    shapes = JobShapes.from_json(request["shapes"]) if request["shapes"] is not None else None
    job = Job.model_validate_json(request["job"])
    found = resolve(request["entry"])(
        Probing(accelerator, int(index), job, shapes, request["worker"])
    )
    control.send("fingerprint", fingerprint=found.to_json())


_TASKS: dict[str, Callable[[Message, AgentControl], None]] = {
    "train": _train,
    "inspect": _inspect,
    "fingerprint": _fingerprint,
}


def _take_over(log: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    faulthandler.enable()
    signal.signal(
        signal.SIGTERM, signal.SIG_DFL
    )  # SIGINT stays ignored: a terminal's Ctrl-C is the controller's
