"""Everything that can reach the controller, each as a frozen item of its inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dougong.checkpoint.repository import RejectedCheckpoint
from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts
from dougong.control.messages import (
    DevicesRead,
    FromWorker,
    Heartbeat,
    Message,
    OrderDrill,
    OutputLine,
    ProtocolError,
    decode,
)
from dougong.control.path_messages import Hearing, PathEnd, PathResult
from dougong.control.worker_messages import StateFetched, StoreRequest
from dougong.errors import DougongError
from dougong.launcher.backends.base import RayNews
from dougong.planner.nodes import Node
from dougong.records.recomputation import RecordedStep

# From the network and the system.


@dataclass(frozen=True)
class AgentJoined:
    """An agent has proved itself. `clock_ahead_s`: by so much its machine's clock was ahead of the
    controller's; negative: behind."""

    facts: AgentFacts
    channel: Channel
    clock_ahead_s: float = 0.0


@dataclass(frozen=True)
class AgentMessage:
    """An agent said something."""

    agent: str
    channel: Channel
    message: Message


@dataclass(frozen=True)
class AgentBeat:
    """An agent's heartbeat as it came off its line, at `heard_at` (monotonic seconds).
    `not_understood`: is told of one that is none."""

    agent: str
    channel: Channel
    frame: bytes
    heard_at: float
    not_understood: Callable[[str, Exception], None]

    def read(self) -> AgentMessage | None:
        """What it says; None where that is nothing."""
        try:
            return AgentMessage(self.agent, self.channel, decode(self.frame, self.channel.peer))
        except ProtocolError as error:  # one message is lost, the connection is not
            self.not_understood(f"agent {self.agent}", error)
            return None


@dataclass(frozen=True)
class AgentLeft:
    """An agent's connection ended."""

    agent: str
    channel: Channel
    reason: str


@dataclass(frozen=True)
class Heard:
    """What the controller hears of other machines has changed, or goes on to be less than all."""

    hearing: Hearing


@dataclass(frozen=True)
class MachineTried:
    """Whether the machine of a silent agent takes connections."""

    agent: str
    answers: bool


@dataclass(frozen=True)
class DrillOrder:
    """A client asks for a drill, and waits for an answer."""

    channel: Channel
    message: OrderDrill


@dataclass(frozen=True)
class ClientRequest:
    """Another terminal wants something; it waits for an answer on the channel."""

    channel: Channel
    message: Message


@dataclass(frozen=True)
class PeerRefused:
    """Somebody or something foreign was turned away, or could not be understood, and is worth a
    word."""

    text: str


@dataclass(frozen=True)
class SignalReceived:
    """This process got a signal."""

    number: int


@dataclass(frozen=True)
class SuccessorFound:
    """Another controller has taken the run over; `who`: in words."""

    who: str


# From background threads: what they were asked for.


@dataclass(frozen=True)
class BackendOpened:
    """Nodes can be had; `host`: this process's address as the nodes reach it."""

    host: str


@dataclass(frozen=True)
class NodesListed:
    """The nodes there are."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class OwnPathsTried:
    """This process has tried the paths from its machine, whose own end is `end`."""

    number: int
    end: PathEnd
    results: tuple[PathResult, ...]


@dataclass(frozen=True)
class AgentsPlaced:
    """All agents that were asked for have been started; they have yet to join."""


@dataclass(frozen=True)
class AgentsEnded:
    """The agents that have ended by now, as their backend knows it, and why."""

    reasons: Mapping[str, str]


@dataclass(frozen=True)
class ReserveSeen:
    """The nodes there are, for agents that are to stand by, and what the backend knows of agents
    that have ended. `returned`: names of agents whose places have been given back."""

    nodes: tuple[Node, ...]
    ended: Mapping[str, str]
    returned: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReserveBegun:
    """Agents that are to stand by have been started, or could not be (`reason`)."""

    agents: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class ReserveFailed:
    """The backend could not be asked for agents that are to stand by. Training goes on."""

    reason: str


@dataclass(frozen=True)
class Awaited:
    """What somebody in the background waits for, in words."""

    text: str


@dataclass(frozen=True)
class FoundCheckpoint:
    """What a generation starts from (`directory` None: the beginning), and what was newer but not
    valid. `moved`: checkpoints that were set aside, by somebody's wish, in the
    folder `aside`. `refusal`: why no generation may start; `is_away`: as storage does not give the
    checkpoints now, and may give them later. `recorded`: what earlier generations have recorded of
    the steps after it. `in_memory`: workers hold a newer state in memory, and the directory has not
    been read."""

    directory: Path | None
    rejected: tuple[RejectedCheckpoint, ...] = ()
    warnings: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    aside: Path | None = None
    refusal: DougongError | None = None
    is_away: bool = False
    recorded: Mapping[int, RecordedStep] = field(default_factory=dict)
    in_memory: bool = False


@dataclass(frozen=True)
class Committed:
    """A checkpoint that now exists."""

    step: int
    directory: Path
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class CheckpointsPruned:
    """Old checkpoints have been looked through. `removed`: names of those that were deleted;
    `invalid`: of damaged ones that were found on that occasion; `left`: of those that were to be
    deleted and are not, and why."""

    removed: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CommitFailed:
    """A checkpoint could not be committed."""

    step: int
    error: BaseException


@dataclass(frozen=True)
class TaskFailed:
    """What was asked of a background thread raised this."""

    error: BaseException


Item = (
    AgentJoined
    | AgentMessage
    | AgentBeat
    | AgentLeft
    | Heard
    | MachineTried
    | ClientRequest
    | PeerRefused
    | SignalReceived
    | SuccessorFound
    | BackendOpened
    | RayNews
    | NodesListed
    | OwnPathsTried
    | AgentsPlaced
    | AgentsEnded
    | ReserveSeen
    | ReserveBegun
    | ReserveFailed
    | Awaited
    | FoundCheckpoint
    | Committed
    | CheckpointsPruned
    | CommitFailed
    | TaskFailed
)


def is_routine(item: Item) -> bool:
    """Whether this comes so often, from everybody, that nobody decides anything because of it
    before the next look at everybody."""
    match item:
        case AgentMessage(message=Heartbeat() | DevicesRead() | OutputLine()):
            return True
        case AgentMessage(message=FromWorker(message=StoreRequest() | StateFetched())):
            return True
        case _:
            return isinstance(item, Heard)
