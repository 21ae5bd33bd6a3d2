"""What the controller can do, each as a frozen value: decided in one place, done in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.control.channel import Channel
from dougong.control.messages import Acknowledged, InflictFault, RequestRefused
from dougong.control.worker_messages import PartDurable, StoreReply, WorkerRaised
from dougong.errors import DougongError
from dougong.fault.diagnosis import Diagnosis
from dougong.fault.drill import FiredDrill
from dougong.job.drills.drill import Drill
from dougong.launcher.agent.answers import InspectedModel, JudgedFingerprints
from dougong.launcher.controller.inbound.items import DrillOrder
from dougong.launcher.controller.states import State
from dougong.parallel.plan import Plan
from dougong.planner.placement import AgentSpec
from dougong.records.events import Event, GenerationStarted

# News: to write down, to show, to answer. They follow from an item alone.


@dataclass(frozen=True)
class Record:
    """Write an event down and show it."""

    event: Event


@dataclass(frozen=True)
class RecordStep:
    """Write a step's row of metrics.jsonl, and show it."""

    row: dict[str, Any]


@dataclass(frozen=True)
class ShowLine:
    """Show what a worker printed."""

    worker: str
    text: str


@dataclass(frozen=True)
class ShowException:
    """Let the screen know which exception a worker's traceback belongs to."""

    worker: str
    error: WorkerRaised


@dataclass(frozen=True)
class AnswerWorkers:
    """Send these workers of the generation what the store where they meet answers."""

    generation: int
    answers: tuple[tuple[str, StoreReply], ...]


@dataclass(frozen=True)
class AdoptChannel:
    """From now on this agent is reached over this channel."""

    agent: str
    channel: Channel


@dataclass(frozen=True)
class CloseChannel:
    """Nothing more is said over this channel. `answer`: the last word, to a client."""

    channel: Channel
    answer: Acknowledged | RequestRefused | None = None


@dataclass(frozen=True)
class TryMachine:
    """Find out whether the machine of a silent agent takes connections."""

    agent: str


News = (
    Record
    | RecordStep
    | ShowLine
    | ShowException
    | AnswerWorkers
    | AdoptChannel
    | CloseChannel
    | TryMachine
)


# Decisions about agents and what they look at.


@dataclass(frozen=True)
class OpenBackend:
    """Reach the nodes, and load torch meanwhile."""


@dataclass(frozen=True)
class ListNodes:
    """Listen for agents on this address, open the store there, and list the nodes with the devices
    of these kinds."""

    host: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class SeekNodes:
    """End what is left of these agents, which are lost, and list the nodes that there are then,
    with the devices of these kinds."""

    agents: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class StartAgents:
    """Start these agents, all or none. `layout`: all agents of the run from now on, in rank order;
    those that are not among `specs` live already."""

    specs: tuple[AgentSpec, ...]
    layout: tuple[AgentSpec, ...]


@dataclass(frozen=True)
class SeeReserve:
    """List the nodes with the devices of these kinds, beside the training, after what these agents
    hold, which are gone, has been given back."""

    gone: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class BeginReserve:
    """Start these agents beside the training, which are to stand by. `layout`: as of
    `StartAgents`."""

    specs: tuple[AgentSpec, ...]
    layout: tuple[AgentSpec, ...]


@dataclass(frozen=True)
class StandBy:
    """From now on this agent can take a place at once."""

    agent: str


@dataclass(frozen=True)
class Relay:
    """From now on these are the run's agents, in rank order, with these workers; none is started.
    `gone`: others that were, whose places are yet to be given back."""

    layout: tuple[AgentSpec, ...]
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskWhoEnded:
    """Ask the backend which agents have ended."""


@dataclass(frozen=True)
class LoseAgent:
    """From now on this agent counts as lost."""

    agent: str
    reason: str


@dataclass(frozen=True)
class GoOn:
    """What went wrong last has been answered."""


@dataclass(frozen=True)
class AskForPaths:
    """Have the paths between machines tried: by name, which ends each is to try. `number`: of this
    round of tries."""

    number: int
    wanted: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class DropAgent:
    """Close a lost agent's connection, so that it ends its workers if it still lives."""

    agent: str


@dataclass(frozen=True)
class GiveUp:
    """What is under way ends with this error."""

    error: DougongError


@dataclass(frozen=True)
class AskForModel:
    """Have this worker's agent look at the model and the data."""

    agent: str
    worker: str


@dataclass(frozen=True)
class UseModel:
    """From now on this is known of the model and the data."""

    model: InspectedModel


@dataclass(frozen=True)
class AskForFingerprints:
    """Have devices probed: for each agent, the workers in whose name."""

    workers: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class UseFingerprints:
    """From now on this is known of the devices' arithmetic."""

    judged: JudgedFingerprints


@dataclass(frozen=True)
class UsePlan:
    """From now on generations follow this plan."""

    plan: Plan


# Decisions about generations and checkpoints.


@dataclass(frozen=True)
class FindCheckpoint:
    """Look for the newest valid checkpoint, after the commits that were begun."""


@dataclass(frozen=True)
class TrustMemory:
    """The next generation begins at once: workers hold their state in memory. `fallback`: the
    newest committed checkpoint, which is not read before it is needed."""

    fallback: Path | None


@dataclass(frozen=True)
class ForkGeneration:
    """Have a generation's workers forked, and those that live handed the task. `step`: the last one
    done; `resume`: the checkpoint to go on from where no worker holds that step in memory
    (`in_memory`: one says that it does). `rolls_back`, `skips`: as in WorkerContext."""

    number: int
    plan: Plan
    step: int
    resume: Path | None
    drills: tuple[Drill, ...]
    in_memory: bool = False
    rolls_back: bool = False
    skips: tuple[int, ...] = ()

    def event(self) -> GenerationStarted:
        """That it begins, for the record."""
        return GenerationStarted(
            generation=self.number,
            workers=tuple(worker.name for worker in self.plan.workers),
            resume=None if self.resume is None else self.resume.name,
            step=self.step,
            in_memory=self.in_memory,
        )


@dataclass(frozen=True)
class AskToStop:
    """Ask a generation's workers to end after the step in progress."""

    generation: int


@dataclass(frozen=True)
class AskToRest:
    """Ask a generation's workers to end it after the step in progress, and to live on."""

    generation: int


@dataclass(frozen=True)
class EndRested:
    """End a generation whose workers rest: all of them leave it and wait for the next one."""

    generation: int


@dataclass(frozen=True)
class EndGeneration:
    """End a generation at once, because of this failure: the workers `leaving` leave it and wait
    for the next one, all others are killed."""

    generation: int
    diagnosis: Diagnosis
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True)
class KillLate:
    """End workers of a broken generation that have not left it in time."""

    generation: int
    workers: tuple[str, ...]


@dataclass(frozen=True)
class TakeOrder:
    """A client's order of a drill is answered now."""

    order: DrillOrder


@dataclass(frozen=True)
class FireDrill:
    """Have an agent do what a drill says, or the controller itself where no agent is named.
    `fired`: by what it is known; None: a command's."""

    agent: str | None
    message: InflictFault
    fired: FiredDrill | None


@dataclass(frozen=True)
class CommitCheckpoint:
    """Make a checkpoint of the parts, which are all there. `parts`: by worker."""

    step: int
    generation: int
    parts: dict[str, PartDurable]


@dataclass(frozen=True)
class ForgetParts:
    """A generation has ended: what it did not finish is no checkpoint."""


@dataclass(frozen=True)
class Enter:
    """The run is in this state now."""

    state: State


Action = (
    News
    | OpenBackend
    | ListNodes
    | SeekNodes
    | StartAgents
    | SeeReserve
    | BeginReserve
    | StandBy
    | Relay
    | AskWhoEnded
    | AskForPaths
    | LoseAgent
    | GoOn
    | DropAgent
    | GiveUp
    | AskForModel
    | UseModel
    | AskForFingerprints
    | UseFingerprints
    | UsePlan
    | FindCheckpoint
    | TrustMemory
    | ForkGeneration
    | AskToStop
    | AskToRest
    | EndRested
    | EndGeneration
    | KillLate
    | TakeOrder
    | FireDrill
    | CommitCheckpoint
    | ForgetParts
    | Enter
)
