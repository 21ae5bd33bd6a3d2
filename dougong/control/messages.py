"""Every message between controller, agent, worker, fork server and client, as a frozen dataclass.

On the wire a message is a JSON object with `kind` (which class) and its fields; `encode` and
`decode` are the only places that know that form. A kind that a receiver does not know, or a field
that is not as it should be, is one `ProtocolError`.

Who says what, in the order of a generation's life:

    client or agent -> controller   Hello, after the controller's Challenge; Welcome comes back
    controller -> agent             Ping, ForkWorkers, StopAfterStep, KillWorkers, EndAgent
    agent -> controller             AgentReady, AgentFailed, Heartbeat, WorkerForked, WorkerExited,
                                    OutputLine, FromWorker
    worker -> controller            (inside FromWorker) ModelFound, FingerprintFound, StepDone,
                                    PartDurable, DrillAnnounced, WorkerWarning, WorkerRaised,
                                    WorkerDone
    client -> controller            StopRun, Ping; Acknowledged or RequestRefused comes back
    fork server -> agent            ServerReady, ServerBroken, Forked, ForkFailed, ChildExited
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dougong.errors import LaunchError
from dougong.job.schema import Drill, Job
from dougong.parallel.plan import Inventory, Plan


class ProtocolError(LaunchError):
    """The peer sent something that is not a message of this protocol, or could not prove that it
    belongs here."""


# The handshake


@dataclass(frozen=True)
class Challenge:
    """The controller's first word: prove that you know the token for this nonce."""

    nonce: str
    kind: Literal["challenge"] = "challenge"


@dataclass(frozen=True)
class AgentFacts:
    """What an agent says of itself. `devices`: None where any number of workers fits."""

    agent: str
    island: str
    node: str
    pid: int
    accelerator: str
    devices: int | None
    versions: dict[str, str]
    environment: dict[str, str]
    sees_run_dir: bool
    ray_node: str | None = None


@dataclass(frozen=True)
class Hello:
    """The answer to the challenge, and a nonce for the controller. `agent`: None for a client."""

    proof: str
    nonce: str
    agent: AgentFacts | None = None
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True)
class Welcome:
    """The controller's own proof."""

    proof: str
    kind: Literal["welcome"] = "welcome"


# What a forked process is asked to do


@dataclass(frozen=True)
class TrainTask:
    """A worker of a generation. `store`: host and port of the rendezvous; `console`: the worker
    whose every line is forwarded; `resume`: a committed and verified checkpoint's path."""

    entry: str
    job: Job
    plan: Plan
    run_dir: str
    store: tuple[str, int]
    console: str
    resume: str | None = None
    drills: tuple[Drill, ...] = ()
    task: Literal["train"] = "train"


@dataclass(frozen=True)
class InspectTask:
    """A look at the model and the data, before there is a plan."""

    entry: str
    job: Job
    task: Literal["inspect"] = "inspect"


@dataclass(frozen=True)
class FingerprintTask:
    """The probes of one device. `devices`: by worker, as `cuda:0`; `shapes`: `JobShapes` as JSON
    has them, None where nothing is known of the job's own calls."""

    entry: str
    job: Job
    devices: dict[str, str]
    shapes: dict[str, Any] | None = None
    task: Literal["fingerprint"] = "fingerprint"


Task = Annotated[TrainTask | InspectTask | FingerprintTask, Field(discriminator="task")]


# Controller to agent


@dataclass(frozen=True)
class ForkWorkers:
    """Fork these workers for the task. Generation 0 is that of looks and probes."""

    generation: int
    workers: tuple[str, ...]
    task: Task
    kind: Literal["fork_workers"] = "fork_workers"


@dataclass(frozen=True)
class StopAfterStep:
    """Ask the generation's workers to end after the present step."""

    generation: int
    kind: Literal["stop_after_step"] = "stop_after_step"


@dataclass(frozen=True)
class KillWorkers:
    """SIGKILL the generation's workers."""

    generation: int
    kind: Literal["kill_workers"] = "kill_workers"


@dataclass(frozen=True)
class EndAgent:
    """The run is over for this agent."""

    kind: Literal["end_agent"] = "end_agent"


@dataclass(frozen=True)
class Ping:
    """I am here. A client's is acknowledged, an agent's answer is its heartbeat."""

    kind: Literal["ping"] = "ping"


# Agent to controller


@dataclass(frozen=True)
class AgentReady:
    """The fork server has loaded what workers need."""

    fork_server_pid: int
    kind: Literal["agent_ready"] = "agent_ready"


@dataclass(frozen=True)
class AgentFailed:
    """The agent cannot go on."""

    text: str
    kind: Literal["agent_failed"] = "agent_failed"


@dataclass(frozen=True)
class WorkerProgress:
    """A worker's progress vector. `sequence` grows with every report of the worker."""

    sequence: int
    step: int
    phase: str
    operation: int


@dataclass(frozen=True)
class Heartbeat:
    """Ten times a second: the progress of the generation's workers on this agent."""

    generation: int
    sequence: int
    progress: dict[str, WorkerProgress]
    kind: Literal["heartbeat"] = "heartbeat"


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


# Worker to controller, inside FromWorker


@dataclass(frozen=True)
class ModelFound:
    """An InspectTask's answer. `data`: what the data is, with its digest; `shapes`: `JobShapes`."""

    inventory: Inventory
    data: dict[str, Any]
    shapes: dict[str, Any] | None = None
    kind: Literal["model_found"] = "model_found"


@dataclass(frozen=True)
class FingerprintFound:
    """A FingerprintTask's answer: `Fingerprint.to_json()`."""

    fingerprint: dict[str, Any]
    kind: Literal["fingerprint_found"] = "fingerprint_found"


@dataclass(frozen=True)
class StepDone:
    """A step is done; `row` is its line of metrics.jsonl. Only one worker says so."""

    row: dict[str, Any]
    kind: Literal["step_done"] = "step_done"


@dataclass(frozen=True)
class PartDurable:
    """A worker's part of a checkpoint is on storage, in `directory`. `part`: `CheckpointPart` as
    JSON has it."""

    step: int
    directory: str
    part: dict[str, Any]
    kind: Literal["part_durable"] = "part_durable"


@dataclass(frozen=True)
class DrillAnnounced:
    """The worker is about to fire its drill."""

    step: int
    action: str
    kind: Literal["drill_announced"] = "drill_announced"


@dataclass(frozen=True)
class WorkerWarning:
    """Something that a person should know; the worker goes on."""

    text: str
    kind: Literal["worker_warning"] = "worker_warning"


@dataclass(frozen=True)
class WorkerRaised:
    """The exception with which a worker ends. `bases`: names of all its classes, so that a
    consequence (`PeerError`) is known by its class."""

    type: str
    bases: tuple[str, ...]
    message: str
    traceback: str = ""
    kind: Literal["worker_raised"] = "worker_raised"


@dataclass(frozen=True)
class WorkerDone:
    """The worker's work is done; its process ends next."""

    kind: Literal["worker_done"] = "worker_done"


WorkerMessage = Annotated[
    ModelFound
    | FingerprintFound
    | StepDone
    | PartDurable
    | DrillAnnounced
    | WorkerWarning
    | WorkerRaised
    | WorkerDone,
    Field(discriminator="kind"),
]


@dataclass(frozen=True)
class FromWorker:
    """What a worker says, carried by its agent."""

    generation: int
    worker: str
    task: str
    message: WorkerMessage
    kind: Literal["from_worker"] = "from_worker"


# Clients


@dataclass(frozen=True)
class StopRun:
    """End the run after its step, or `now`."""

    now: bool = False
    kind: Literal["stop_run"] = "stop_run"


@dataclass(frozen=True)
class Acknowledged:
    """A client's request will be done."""

    kind: Literal["acknowledged"] = "acknowledged"


@dataclass(frozen=True)
class RequestRefused:
    """A client's request will not be done."""

    text: str
    kind: Literal["request_refused"] = "request_refused"


# Fork server to agent


@dataclass(frozen=True)
class ServerReady:
    """Everything is imported."""

    kind: Literal["server_ready"] = "server_ready"


@dataclass(frozen=True)
class ServerBroken:
    """What workers need cannot be imported; `text` is the traceback."""

    text: str
    kind: Literal["server_broken"] = "server_broken"


@dataclass(frozen=True)
class Forked:
    """The answer to the fork request with this number."""

    number: int
    pid: int
    kind: Literal["forked"] = "forked"


@dataclass(frozen=True)
class ForkFailed:
    """The system could not fork for the request with this number."""

    number: int
    text: str
    kind: Literal["fork_failed"] = "fork_failed"


@dataclass(frozen=True)
class ChildExited:
    """A forked process has been reaped. `code`: exit status, negative for a signal."""

    pid: int
    code: int
    kind: Literal["child_exited"] = "child_exited"


Message = Annotated[
    Challenge
    | Hello
    | Welcome
    | ForkWorkers
    | StopAfterStep
    | KillWorkers
    | EndAgent
    | Ping
    | AgentReady
    | AgentFailed
    | Heartbeat
    | WorkerForked
    | WorkerExited
    | OutputLine
    | FromWorker
    | StopRun
    | Acknowledged
    | RequestRefused
    | ServerReady
    | ServerBroken
    | Forked
    | ForkFailed
    | ChildExited,
    Field(discriminator="kind"),
]
"""Everything that travels by itself."""


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    numbers = ConfigDict(ser_json_inf_nan="constants")  # a loss may be NaN
    return TypeAdapter(Message | WorkerMessage, config=numbers)


def encode(message: Message | WorkerMessage) -> bytes:
    """One frame, newline included."""
    return _adapter().dump_json(message) + b"\n"


def decode(frame: bytes) -> Any:
    """The message in one frame. ProtocolError says what is wrong with it."""
    try:
        return _adapter().validate_json(frame)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ProtocolError(f"not a message: {frame[:60]!r}: {place}: {first['msg']}") from error
