"""The controller without a process: items go in, states, actions and events come out.

`observe`, `decide` and the facts are the product's; only the acting is played, by what the tables put in next.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts, FolderTrouble, KeptWorker
from dougong.control.messages import AgentReady, FromWorker, Heartbeat, Message, WorkerExited
from dougong.control.path_messages import CONTROLLER, PathEnd, PathResult, PathsOpen, PathsTried
from dougong.control.progress import WorkerProgress
from dougong.control.worker_messages import (
    ModelFound,
    PartDurable,
    StepDone,
    WorkerDone,
    WorkerMessage,
    WorkerRaised,
)
from dougong.deadlines import DEADLINES, Deadlines
from dougong.job.schema import Job
from dougong.launcher.controller.actions import Action, AskForPaths, CommitCheckpoint, Enter, Record, TryMachine
from dougong.launcher.controller.config import FROM_START, RunPolicy
from dougong.launcher.controller.decide import next_actions
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.items import (
    AgentJoined,
    AgentLeft,
    AgentMessage,
    AgentsPlaced,
    BackendOpened,
    Committed,
    FoundCheckpoint,
    Item,
    NodesListed,
    OwnPathsTried,
)
from dougong.launcher.controller.observe import observe, observe_time
from dougong.launcher.controller.states import Ended, Outcome, Stage, Starting, State
from dougong.parallel.plan import Inventory
from dougong.planner.agreement import Software
from dougong.planner.nodes import Node
from dougong.records.directory import RunDir
from dougong.records.event.base import RunEvent
from dougong.records.recomputation import RecordedStep
from tests.launcher.toyrun import toy_job

ISLANDS = [
    {"name": "east", "accelerator": "cpu", "workers": 2},
    {"name": "west", "accelerator": "cpu", "workers": 1},
]
TICK_S = 0.5
"""The controller looks more often; a look that is much later finds that it has been held up itself."""
INVENTORY = Inventory("toy", (), (), 16, ())
NODE = Node("local-machine", "here", "127.0.0.1")
WORKERS = {"east": ("east/0", "east/1"), "west": ("west/0",)}


# What the tables are made of, beside the items themselves.


@dataclass(frozen=True)
class Joins:
    """An agent proves itself; a new life for one that was there before. `ray_node`: where Ray has placed it; `kept`:
    the step that its workers have held since an earlier controller, by name."""

    agent: str
    node: str = "here"
    ray_node: str | None = None
    kept: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Says:
    """An agent says something in its present life."""

    agent: str
    message: Message


@dataclass(frozen=True)
class Leaves:
    """An agent's connection ends."""

    agent: str


@dataclass(frozen=True)
class Passes:
    """So many seconds pass; of agents that are not `silent`, something has been heard meanwhile."""

    seconds: float
    silent: tuple[str, ...] = ()


Step = Item | Joins | Says | Leaves | Passes


def agent_of(worker: str) -> str:
    return worker.partition("/")[0]


def worker(name: str, message: WorkerMessage, generation: int = 1, task: str = "train") -> Says:
    """A worker says something, through its agent."""
    return Says(agent_of(name), FromWorker(generation, name, task, message))


def exits(name: str, code: int = 0, generation: int = 1, **more: Any) -> Says:
    return Says(agent_of(name), WorkerExited(generation, name, "train", code, pid=7, **more))


def killed(*names: str, generation: int = 1) -> list[Step]:
    """These workers end because the controller asked for it."""
    return [exits(name, -9, generation, asked=True) for name in names]


def raises(name: str, *bases: str, message: str = "x", generation: int = 1, task: str = "train") -> Says:
    return worker(name, WorkerRaised(bases[0], bases, message, "the traceback"), generation, task)


def done(*names: str, generation: int = 1) -> list[Step]:
    """These workers are done, and end."""
    steps: list[Step] = []
    for name in names:
        steps += [worker(name, WorkerDone(), generation), exits(name, 0, generation)]
    return steps


def path_end(name: str) -> PathEnd:
    """Where the paths to an agent are tried, or to the controller: every one has a machine of its own."""
    machine = name.removeprefix("the ")
    return PathEnd(name, machine, f"address of {machine}", 1, "eth0", 1500, (32768, 60999))


def tried(number: int, name: str, *results: PathResult) -> Step:
    """An agent's answer, or the controller's own."""
    if name == CONTROLLER:
        return OwnPathsTried(number, path_end(name), results)
    return Says(name, PathsTried(number, results))


def step(number: int, generation: int = 1, ledger: str | None = None) -> Says:
    row: dict[str, Any] = {"step": number, "loss": 1.0, "tokens": 64, "step_s": 0.01, "tokens_per_s": 6400.0}
    if ledger is not None:
        row["ledger"] = ledger
    return worker("east/0", StepDone(number, row), generation)


def moves(name: str, sequence: int, number: int, phase: str, generation: int = 1) -> Says:
    """A worker's progress, as its agent's heartbeat carries it."""
    progress = {name: WorkerProgress(sequence, number, phase, 0)}
    return Says(agent_of(name), Heartbeat(generation, sequence, progress))


def part(name: str, number: int, generation: int = 1) -> Says:
    return worker(name, PartDurable(number, f"step-{number:06d}", {}), generation)


def committed(number: int) -> Committed:
    return Committed(number, Path(f"/run/checkpoints/step-{number:06d}"), 100, 0.5)


def found(number: int | None = None, **recorded: str) -> FoundCheckpoint:
    """`recorded`: what generation 1 has recorded of the steps after it, such as `_6="ab"`."""
    steps = {int(name.lstrip("_")): RecordedStep(1, ledger) for name, ledger in recorded.items()}
    directory = None if number is None else Path(f"/run/checkpoints/step-{number:06d}")
    return FoundCheckpoint(directory, recorded=steps)


ALL = ("east/0", "east/1", "west/0")
MODEL = worker("east/0", ModelFound(INVENTORY, {"name": "stdlib", "digest": "d"}), 0, "inspect")
UP_TO_JOIN: list[Step] = [BackendOpened("127.0.0.1"), NodesListed((NODE,)), AgentsPlaced()]
UP_TO_READY: list[Step] = [*UP_TO_JOIN, Joins("east"), Joins("west")]
UP_TO_MODEL: list[Step] = [
    *UP_TO_READY,
    Says("east", AgentReady(1)),
    Says("west", AgentReady(2)),
]
START: list[Step] = [*UP_TO_MODEL, MODEL, found()]
"""From nothing to a running generation 1."""


@dataclass
class Machine:
    """Facts and state of one run. `states`, `actions`, `events`: what came out since the last `clear`.

    `paths_pass`: whoever is asked to try paths between machines answers at once that all of them pass; what was asked
    last is `asked_paths`. `nodes`: where an agent is, if not on "here"; `troubles`: what it finds wrong with the run
    directory there.
    """

    job: Job
    deadlines: Deadlines = DEADLINES
    takes_fingerprints: bool = False
    versions: dict[str, str] | None = None
    has_sources: bool = True
    may_grow: bool = False
    is_followed: bool = False
    memory_bytes: int | None = None
    nodes: dict[str, str] = field(default_factory=dict)
    troubles: dict[str, FolderTrouble] = field(default_factory=dict)
    state: State = field(default_factory=lambda: Starting(Stage.BACKEND, 0.0))
    facts: RunFacts = field(default_factory=lambda: RunFacts.at(FROM_START))
    now: float = 0.0
    states: list[str] = field(default_factory=lambda: ["STARTING"])
    actions: list[Action] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    channels: dict[str, Channel] = field(default_factory=dict)
    peers: list[socket.socket] = field(default_factory=list)
    paths_pass: bool = True
    tried: list[str] = field(default_factory=list)
    asked_paths: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def policy(self) -> RunPolicy:
        policy = RunPolicy(self.job, RunDir("/run"), self.deadlines, self.takes_fingerprints)
        software = None if self.versions is None else Software("here", self.versions, {})
        return replace(policy, software=software, has_sources=self.has_sources, may_grow=self.may_grow,
                       is_followed=self.is_followed)  # fmt: skip

    @property
    def outcome(self) -> Outcome:
        assert isinstance(self.state, Ended), f"the run goes on, as {self.state}"
        return self.state.outcome

    def clear(self) -> Machine:
        self.states, self.actions, self.events = [], [], []
        return self

    def play(self, *steps: Step | Iterable[Step]) -> Machine:
        """Put all of it in, one after the other, and settle after each."""
        for entry in steps:
            for one in entry if isinstance(entry, (list, tuple)) else [entry]:
                self._put(one)
                self._settle()
        return self

    def names(self) -> list[str]:
        """What was done, in words: events and states have lists of their own."""
        return [_in_words(action) for action in self.actions]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def event(self, kind: str) -> Any:
        """The only event of that kind."""
        (event,) = [event for event in self.events if event.kind == kind]
        return event

    def _put(self, step: Step) -> None:
        match step:
            case Passes(seconds, silent):
                until = self.now + seconds
                while self.now < until:
                    self.now = min(self.now + TICK_S, until)
                    for agent, channel in self.channels.items():
                        if agent not in silent:
                            channel.heard_at = self.now
                    self._take(observe_time(self.facts, self.now, self.deadlines))
                    self._settle()
            case Joins(agent, node, ray_node, steps):
                channel, node = self._channel(), self.nodes.get(agent, node)
                facts = AgentFacts(agent, agent, node, 1, "cpu", None, {"torch": "2"}, {}, ray_node=ray_node)
                kept = {name: KeptWorker(100, step) for name, step in steps.items()}
                facts = replace(facts, memory_bytes=self.memory_bytes, trouble=self.troubles.get(agent), kept=kept)
                self._observe(AgentJoined(facts, channel))
                handles = self.facts.agents.handles
                if agent not in handles or handles[agent].channel is channel:
                    self.channels[agent] = channel
                    self._observe(AgentMessage(agent, channel, PathsOpen(path_end(agent))))
            case Says(agent, message):
                self._observe(AgentMessage(agent, self.channels[agent], message))
            case Leaves(agent):
                self._observe(AgentLeft(agent, self.channels[agent], "its connection ended"))
            case item:
                self._observe(item)

    def _observe(self, item: Item) -> None:
        self._take(observe(self.facts, item, self.now))

    def _settle(self) -> None:
        for _ in range(100):
            due = next_actions(self.facts, self.state, self.policy, self.now)
            if not due:
                return
            self._take(due)
        raise AssertionError(f"no end of {self.actions[-5:]}")

    def _take(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Record(event):
                    self.events.append(event)
                case Enter(state):
                    if state.name != self.state.name:
                        self.states.append(state.name)
                    self.state = state
                case AskForPaths(_, wanted):
                    self.asked_paths = wanted
                case TryMachine(agent):
                    self.tried.append(agent)
                case _:
                    self.actions.append(action)
            self.facts.note(action, self.now)
            if isinstance(action, AskForPaths) and self.paths_pass:
                self._answer_paths(action)

    def _answer_paths(self, asked: AskForPaths) -> None:
        for name, others in asked.wanted.items():
            results = tuple(PathResult(other, 1, "passes") for other in others)
            self._put(tried(asked.number, name, *results))

    def _channel(self) -> Channel:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
        self.peers.append(theirs)
        channel = Channel(ours, "an agent", self.deadlines)
        channel.heard_at = self.now
        return channel


def machine(takes_fingerprints: bool = False, memory_bytes: int | None = None, **job: Any) -> Machine:
    """A machine at its very beginning. `memory_bytes`: what agents say of it; `job`: as for `toy_job`."""
    made = Job.model_validate(toy_job(**{"islands": ISLANDS, **job}))
    return Machine(made, DEADLINES, takes_fingerprints, memory_bytes=memory_bytes)


def running(**job: Any) -> Machine:
    """A machine whose first generation has just begun."""
    return machine(**job).play(START).clear()


def with_deadlines(made: Machine, **changes: float) -> Machine:
    made.deadlines = replace(made.deadlines, **changes)
    return made


def _in_words(action: Action) -> str:
    """`DropAgent west`, `ForkGeneration 2`: the class, and what matters of it."""
    name = type(action).__name__
    for key in ("agent", "worker", "number", "generation"):
        if hasattr(action, key) and not isinstance(action, CommitCheckpoint):
            return f"{name} {getattr(action, key)}"
    if isinstance(action, CommitCheckpoint):
        return f"{name} {action.step}"
    if hasattr(action, "specs"):
        return f"{name} {' '.join(spec.name for spec in action.specs)}"
    return name
