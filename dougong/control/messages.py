"""Every message that travels by itself between controller, agent, worker, fork server and client.

On the wire a message is a JSON object with `kind` (which class) and its fields; `encode` and
`decode` are the only places that know that form. A kind that a receiver does not know, or a field
that is not as it should be, is one `ProtocolError`.

Who says what, in the order of a generation's life:

    client or agent -> controller   Hello, after the controller's Challenge; Welcome comes back
    controller -> agent             Ping, TryPaths, ForkWorkers, StopAfterStep, LeaveGeneration,
                                    KillWorkers, ToWorker, EndAgent
    agent -> controller             PathsOpen, PathsTried, AgentReady, AgentFailed, Heartbeat,
                                    DevicesRead, ForkServerReplaced, WorkerForked, WorkerExited,
                                    OutputLine, StorageTold, FromWorker
    agent -> worker                 LeaveGeneration, JoinGeneration, and what a ToWorker holds
    worker -> controller            (inside FromWorker) `worker_messages`
    client -> controller            StopRun, Ping; Acknowledged or RequestRefused comes back
    agent <-> fork server           `fork_messages`
"""

from __future__ import annotations

import functools
import reprlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.control.fork_messages import (
    ChildExited,
    Forked,
    ForkFailed,
    ForkRequest,
    KillRequest,
    ServerBroken,
    ServerReady,
    SignalRequest,
    StartServer,
)
from dougong.control.handshake import Challenge, Hello, Welcome
from dougong.control.path_messages import Hearing, PathsOpen, PathsTried, TryPaths
from dougong.control.progress import ForkServerSigns, WorkerProgress, WorkerSigns
from dougong.control.tasks import Task, TrainTask
from dougong.control.worker_messages import StoreReply, WorkerMessage
from dougong.errors import DougongError, LaunchError


class ProtocolError(LaunchError):
    """The peer sent something that is not a message of this protocol, or could not prove that it
    belongs here."""


# Controller to agent


@dataclass(frozen=True)
class ForkWorkers:
    """Have these workers do the task: one whose process lives and has left its generation is handed
    it, the others are forked. Generation 0 is that of looks and probes."""

    generation: int
    workers: tuple[str, ...]
    task: Annotated[Task, Field(discriminator="task")]
    kind: Literal["fork_workers"] = "fork_workers"


@dataclass(frozen=True)
class StopAfterStep:
    """Ask the generation's workers to end after the present step."""

    generation: int
    kind: Literal["stop_after_step"] = "stop_after_step"


@dataclass(frozen=True)
class RestAfterStep:
    """Ask the generation's workers to end their generation after the present step, and to wait for
    the next one: no step is lost."""

    generation: int
    kind: Literal["rest_after_step"] = "rest_after_step"


@dataclass(frozen=True)
class LeaveGeneration:
    """To an agent, which passes it on to its workers of that generation: leave it, whatever you are
    at, keep your process and what it holds, and wait for the next one."""

    generation: int
    kind: Literal["leave_generation"] = "leave_generation"


@dataclass(frozen=True)
class KillWorkers:
    """SIGKILL these workers of the generation; all of them where none is named."""

    generation: int
    workers: tuple[str, ...] = ()
    kind: Literal["kill_workers"] = "kill_workers"


@dataclass(frozen=True)
class InflictFault:
    """A drill: do this to the worker, to the agent or to its fork server, as the vocabulary of
    faults says. `for_s`: how long; None: as the vocabulary says."""

    generation: int
    worker: str
    fault: str
    for_s: float | None = None
    kind: Literal["inflict_fault"] = "inflict_fault"


@dataclass(frozen=True)
class ToWorker:
    """For one worker of the generation; its agent passes the message on."""

    generation: int
    worker: str
    message: StoreReply
    kind: Literal["to_worker"] = "to_worker"


@dataclass(frozen=True)
class EndAgent:
    """The run is over for this agent."""

    kind: Literal["end_agent"] = "end_agent"


@dataclass(frozen=True)
class Ping:
    """I am here. A client's is acknowledged, an agent's answer is its heartbeat."""

    kind: Literal["ping"] = "ping"


# Agent to worker


@dataclass(frozen=True)
class JoinGeneration:
    """To a worker that has left its generation: take part in this one. `address`: the agent's
    network address."""

    generation: int
    task: TrainTask
    address: str
    kind: Literal["join_generation"] = "join_generation"


# Agent to controller


@dataclass(frozen=True)
class AgentReady:
    """The fork server has loaded what workers need."""

    fork_server_pid: int
    kind: Literal["agent_ready"] = "agent_ready"


@dataclass(frozen=True)
class ForkServerReplaced:
    """A fork server has ended, and another one forks from now on; no worker has ended with it.
    `hung`: how it was when it was ended, since it did nothing; None: it has ended by itself.
    `is_ready`: the other one stood by, and can fork at once."""

    text: str
    fork_server_pid: int
    hung: ForkServerSigns | None = None
    is_ready: bool = True
    kind: Literal["fork_server_replaced"] = "fork_server_replaced"


@dataclass(frozen=True)
class AgentFailed:
    """The agent cannot go on: of itself, or because its fork server is gone. `is_preempted`:
    somebody has taken its machine from the run."""

    text: str
    what: Literal["agent", "fork_server"] = "agent"
    is_preempted: bool = False
    kind: Literal["agent_failed"] = "agent_failed"


@dataclass(frozen=True)
class Heartbeat:
    """Ten times a second, in large runs less often (`Deadlines.of_workers`): the progress of the
    generation's workers on this agent, and the signs of life of their processes and of its fork
    server; what the agent hears of others."""

    generation: int
    sequence: int
    progress: dict[str, WorkerProgress]
    signs: dict[str, WorkerSigns] = field(default_factory=dict)
    hearing: Hearing = field(default_factory=Hearing)
    fork_server: ForkServerSigns = field(default_factory=ForkServerSigns)
    kind: Literal["heartbeat"] = "heartbeat"


@dataclass(frozen=True)
class DevicesRead:
    """About once a second: how this agent's devices say that they are, as `cuda:0`. `problem`: why
    they say nothing, in words."""

    readings: dict[str, DeviceReading] = field(default_factory=dict)
    problem: str = ""
    kind: Literal["devices_read"] = "devices_read"


@dataclass(frozen=True)
class WorkerForked:
    """A worker's process exists."""

    generation: int
    worker: str
    pid: int
    kind: Literal["worker_forked"] = "worker_forked"


@dataclass(frozen=True)
class WorkerExited:
    """A worker's process has ended, or could not be begun (`pid` None, `text` says why).

    `code`: exit status, negative for a signal. `asked`: KillWorkers was for it. `oom`: the kernel
    killed something of the agent's control group for memory meanwhile.
    """

    generation: int
    worker: str
    task: str
    code: int
    pid: int | None = None
    asked: bool = False
    oom: bool = False
    last_lines: tuple[str, ...] = ()
    text: str | None = None
    kind: Literal["worker_exited"] = "worker_exited"


@dataclass(frozen=True)
class OutputLine:
    """A line that a worker printed and that is worth showing."""

    generation: int
    worker: str
    text: str
    kind: Literal["output_line"] = "output_line"


@dataclass(frozen=True)
class FromWorker:
    """What a worker says, carried by its agent."""

    generation: int
    worker: str
    task: str
    message: Annotated[WorkerMessage, Field(discriminator="kind")]
    kind: Literal["from_worker"] = "from_worker"


# Clients


@dataclass(frozen=True)
class StopRun:
    """End the run after its step, or `now`."""

    now: bool = False
    kind: Literal["stop_run"] = "stop_run"


@dataclass(frozen=True)
class OrderDrill:
    """Rehearse a fault while the run goes on: as `InflictFault`."""

    fault: str
    worker: str
    for_s: float | None = None
    kind: Literal["order_drill"] = "order_drill"


@dataclass(frozen=True)
class Acknowledged:
    """The request is met, or will be. `storage`: what the controller cannot write now, in words:
    the run's files cannot say it."""

    storage: str = ""
    kind: Literal["acknowledged"] = "acknowledged"


@dataclass(frozen=True)
class RequestRefused:
    """A client's request will not be done. `is_for_now`: it may be, when the run trains again."""

    text: str
    is_for_now: bool = False
    kind: Literal["request_refused"] = "request_refused"


Message = (
    Challenge
    | Hello
    | Welcome
    | ForkWorkers
    | StopAfterStep
    | RestAfterStep
    | LeaveGeneration
    | KillWorkers
    | InflictFault
    | ToWorker
    | EndAgent
    | Ping
    | TryPaths
    | PathsOpen
    | PathsTried
    | AgentReady
    | ForkServerReplaced
    | AgentFailed
    | Heartbeat
    | DevicesRead
    | WorkerForked
    | WorkerExited
    | OutputLine
    | FromWorker
    | WorkerMessage
    | JoinGeneration
    | StoreReply
    | StopRun
    | OrderDrill
    | Acknowledged
    | RequestRefused
    | StartServer
    | ForkRequest
    | KillRequest
    | SignalRequest
    | ServerReady
    | ServerBroken
    | Forked
    | ForkFailed
    | ChildExited
)
"""Everything that travels by itself."""


def encode(message: Message) -> bytes:
    """One frame, newline included."""
    return _adapter().dump_json(message) + b"\n"


_BEAT_END = b'"kind":"heartbeat"}'


def is_beat(frame: bytes) -> bool:
    """Whether a frame is a heartbeat, by its end. Whoever does not need each of them reads the
    newest alone."""
    return frame.endswith(_BEAT_END)


def decode(frame: bytes, sender: str = "the peer") -> Message:
    """The message in one frame. ProtocolError names the sender, the field, its value and the
    rule."""
    try:
        return cast(Message, _adapter().validate_json(frame, strict=True))
    except ValidationError as error:
        text = _describe(error, frame)
    except DougongError as error:  # a part that checks itself, such as a plan
        text = f"not a message: {error}"
    raise ProtocolError(f"{sender}: {text}")


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")  # a loss may be NaN
    return TypeAdapter(Annotated[Message, Field(discriminator="kind")], config=config)


def _describe(error: ValidationError, frame: bytes) -> str:
    """The first finding of pydantic in one short sentence."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    rule, value = first["msg"], reprlib.repr(first["input"])
    match first["type"]:
        case "union_tag_invalid":
            where = f" in {place}" if place else ""
            return f"unknown message kind {first['ctx']['tag']}{where}"
        case "union_tag_not_found":
            return f"not a message: {frame[:60]!r} has no kind"
        case "missing":
            return f"not a message: {place} is missing"
        case _ if place:
            return f"not a message: {place} is {value}: {rule}"
        case _:
            return f"not a message: {frame[:60]!r}: {rule}"
