"""What the controller knows of its run: plain data. `observe` changes it by what comes, `note` by
what the controller itself did; nothing here decides or acts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from dougong.deadlines import Deadlines
from dougong.errors import DougongError
from dougong.fault.culprit import Culprit
from dougong.fault.drill import FiredDrill
from dougong.fault.observation import AgentLost, LinkCut
from dougong.fault.paths import PathFacts
from dougong.fault.policy import PastFailure
from dougong.fault.router_watch import RouterWatch
from dougong.fault.watch import HealthWatch
from dougong.launcher.agent.answers import (
    FINGERPRINT,
    INSPECT,
    Answer,
    InspectedModel,
    JudgedFingerprints,
    inherited,
)
from dougong.launcher.controller.actions import (
    Action,
    AskForFingerprints,
    AskForModel,
    AskForPaths,
    AskWhoEnded,
    BeginReserve,
    CommitCheckpoint,
    DropAgent,
    EndGeneration,
    EndRested,
    FindCheckpoint,
    FireDrill,
    ForgetParts,
    ForkGeneration,
    GiveUp,
    GoOn,
    KillLate,
    LoseAgent,
    Record,
    Relay,
    SeekNodes,
    SeeReserve,
    StandBy,
    StartAgents,
    TakeOrder,
    TrustMemory,
    TryMachine,
    UseFingerprints,
    UseModel,
    UsePlan,
)
from dougong.launcher.controller.config import ResumePoint
from dougong.launcher.controller.inbound.agents import AgentHandle, AgentTable
from dougong.launcher.controller.inbound.devices import DeviceFacts
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.inbound.items import DrillOrder, FoundCheckpoint
from dougong.launcher.controller.inbound.reserve import ReserveFacts
from dougong.launcher.controller.inbound.saves import CheckpointFacts
from dougong.launcher.controller.states import Stop
from dougong.parallel.plan import Plan
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.event.recovery_times import OpenRecoveries
from dougong.records.events import (
    DeviceQuarantined,
    FirstStep,
    RecoveryDecided,
    SpareShort,
    SurvivorLost,
    Waiting,
)
from dougong.records.metrics import MetricsRow
from dougong.records.recomputation import Ledgers, Recomputation


@dataclass
class RunFacts:
    """Facts about one run: its agents, its generation, its checkpoints, and what was asked of it.

    `number`: of the newest generation. `step`: the last one done; `recorded`: the last one whose
    row is recorded. `fired`: drills that have come; `orders`: those that clients ask for.
    `first_step_at`: of this controller's life (monotonic seconds). `same_since`: the first
    generation whose bits all later ones must give again. `recomputation`: how far the present one
    has done so; `ledgers`: what it may have to repeat. `recoveries`: those under way. `answers`: of
    generation 0's children, by task and worker. `awaited`: what was told last to be waited for,
    empty where nothing is. `has_begun`: workers have been started. `decided`: the decision told
    last. `nodes_at`: when the nodes were listed (monotonic seconds). `error`: what went wrong with
    something that the controller itself did or waited for. `successor`: the controller that has
    taken the run over from this one, in words; empty: none. `ray`: what of Ray is gone, in words.
    `skipped`: steps that the run leaves out. `unvalidated`: the row of the last step, while its
    validation is made up. `reserve`: the search for agents that stand by. None: not known yet.
    """

    number: int
    step: int
    fired: set[FiredDrill]
    recorded: int = 0
    same_since: int = 1
    orders: list[DrillOrder] = field(default_factory=list)
    first_step_at: float | None = None
    agents: AgentTable = field(default_factory=AgentTable)
    reserve: ReserveFacts = field(default_factory=ReserveFacts)
    paths: PathFacts = field(default_factory=PathFacts)
    routers: RouterWatch = field(default_factory=RouterWatch)
    checkpoints: CheckpointFacts = field(default_factory=CheckpointFacts)
    history: list[PastFailure] = field(default_factory=list)
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    judged: JudgedFingerprints = field(default_factory=JudgedFingerprints)
    successor: str = ""
    ray: str = ""
    are_placed: bool = False
    awaited: str = ""
    decided: str = ""
    host: str | None = None
    nodes: tuple[Node, ...] | None = None
    nodes_at: float = 0.0
    model: InspectedModel | None = None
    plan: Plan | None = None
    generation: Generation | None = None
    health: HealthWatch = field(default_factory=HealthWatch)
    devices: DeviceFacts = field(default_factory=DeviceFacts)
    unvalidated: MetricsRow | None = None
    skipped: set[int] = field(default_factory=set)
    recomputation: Recomputation = field(default_factory=Recomputation)
    ledgers: Ledgers = field(default_factory=Ledgers)
    recoveries: OpenRecoveries = field(default_factory=OpenRecoveries)
    stop: Stop | None = None
    error: DougongError | None = None
    has_begun: bool = False

    @staticmethod
    def at(point: ResumePoint, lifted: Collection[str] = ()) -> RunFacts:
        """All that is known at first. `lifted`: keys of devices that are used again."""
        fired, told = set(point.fired), point.recorded or point.step
        facts = RunFacts(point.generation - 1, point.step, fired, told, point.same_since)
        facts.devices = DeviceFacts.of(point.quarantined, lifted)
        facts.skipped, facts.has_begun = set(point.skipped), point.died is not None
        facts.history, facts.checkpoints.committed_at = list(point.failures), point.committed_at
        return facts

    def generation_of(self, number: int) -> Generation | None:
        """The present generation, if this is its number: what is said of an older one is of no
        account."""
        generation = self.generation
        return generation if generation is not None and generation.number == number else None

    def lose(self, handle: AgentHandle, reason: str, now: float) -> None:
        """An agent has ended, and its workers with it."""
        self.lose_by(handle, AgentLost(Culprit("agent", handle.spec.name), reason, ()), now)

    def lose_by(self, handle: AgentHandle, failure: AgentLost | LinkCut, now: float) -> None:
        """An agent is gone by this failure, of itself or of something that it needs."""
        self.devices.note_lost(handle)
        own = replace(failure, workers=handle.spec.workers)
        self.reserve.note_loss(self.host_of(handle), now)
        self.agents.lose(handle, own, self.machine_of(handle))
        if self.generation is not None:
            self.generation.note_lost(own, now)

    def note_left(self, handle: AgentHandle, reason: str, now: float) -> None:
        """An agent's connection has ended. Of one that is not ready yet, its backend may know why
        in a moment."""
        if handle.is_ready:
            self.lose(handle, reason, now)
        elif handle.left is None:
            handle.left = reason, now

    def note_unexplained(self, now: float, deadlines: Deadlines) -> None:
        """Agents whose end nobody has explained are lost by what their connection tells."""
        for handle in self.agents.unexplained:
            assert handle.left is not None
            reason, left_at = handle.left
            if now - left_at > deadlines.exit_status_s:
                self.lose(handle, reason, now)

    def note_fallen(self, reasons: Mapping[str, str], now: float) -> None:
        """What the backend knows of agents that were to stand by and have ended before they said
        a word; of others their connection tells it."""
        for handle in self.agents.standing:
            reason = reasons.get(handle.spec.name)
            if reason is not None and (handle.channel is None or handle.is_unexplained):
                self.lose(handle, reason, now)

    def machine_of(self, handle: AgentHandle) -> str:
        """The machine of an agent, as it has named it itself or as the backend listed it."""
        if handle.facts is not None:
            return handle.facts.node
        listed = [node for node in self.nodes or () if node.id == handle.spec.node]
        return listed[0].title if listed else "its node"

    def host_of(self, handle: AgentHandle) -> str:
        """The name of an agent's machine alone."""
        if handle.facts is not None:
            return handle.facts.node
        return self.listed_name(handle)

    def listed_name(self, handle: AgentHandle) -> str:
        """The name under which the backend lists an agent's machine; empty where it does not."""
        names = [node.name for node in self.nodes or () if node.id == handle.spec.node]
        return names[0] if names else ""

    def note_stop(self, stop: Stop) -> bool:
        """Somebody wants the run to stop; True for the first request. A second one does not wait
        for the step."""
        # The first request keeps its name and its exit status; a second one only makes it urgent.
        is_first = self.stop is None
        self.stop = stop if self.stop is None else replace(self.stop, now=True)
        return is_first

    def note(self, action: Action, now: float) -> None:
        """Take down what the controller has done, for actions that change what is known."""
        match action:
            case GiveUp(error):
                self.error = error
            case UseModel(model):
                self.model = model
            case UseFingerprints(judged):
                self.judged = judged
            case UsePlan(plan):
                self.plan = plan
            case EndGeneration() | EndRested() | KillLate() | ForkGeneration():
                self._note_generation(action, now)
            case SeeReserve() | BeginReserve() | StandBy() | Relay():
                self._note_reserve(action, now)
            case TakeOrder(order):
                self.orders.remove(order)
            case FireDrill():
                self._note_drill(action, now)
            case Record() | GoOn() | LoseAgent() | SeekNodes():
                self._note_search(action, now)
            case (
                StartAgents()
                | AskWhoEnded()
                | DropAgent()
                | TryMachine()
                | AskForPaths()
                | AskForModel()
                | AskForFingerprints()
            ):
                self._note_agents(action, now)
            case CommitCheckpoint() | ForgetParts() | FindCheckpoint() | TrustMemory():
                self._note_checkpoints(action, now)

    def _note_checkpoints(
        self, action: CommitCheckpoint | ForgetParts | FindCheckpoint | TrustMemory, now: float
    ) -> None:
        match action:
            case CommitCheckpoint(step, _, parts):
                self.checkpoints.begin_commit(step, parts)
            case ForgetParts():
                self.recoveries.note_left(now)
                self.checkpoints.forget_parts()
            case FindCheckpoint():
                self.checkpoints.begin_search()
            case TrustMemory(fallback):
                self.checkpoints.found = FoundCheckpoint(fallback, in_memory=True)

    def _note_drill(self, action: FireDrill, now: float) -> None:
        if action.fired is not None:
            self.fired.add(action.fired)
        generation, message = self.generation_of(action.message.generation), action.message
        if generation is not None and action.agent is not None:
            generation.note_drill(message.worker, message.fault, now)

    def _note_generation(
        self, action: EndGeneration | EndRested | KillLate | ForkGeneration, now: float
    ) -> None:
        match action:
            case EndGeneration():
                self._end_generation(action, now)
            case EndRested(generation):
                rested = self.generation_of(generation)
                self.recomputation = Recomputation()
                if rested is not None:
                    rested.note_end(tuple(rested.workers), now)
            case KillLate(generation, workers):
                late = self.generation_of(generation)
                if late is not None:
                    late.note_killed(workers, now)
            case ForkGeneration():
                self._begin_generation(action, now)

    def _end_generation(self, action: EndGeneration, now: float) -> None:
        number, diagnosis = action.generation, action.diagnosis
        ended = self.generation_of(number)
        has_stepped = ended is not None and ended.has_stepped
        self.history.append(PastFailure(number, diagnosis, has_stepped, self.step, now))
        self.recomputation = Recomputation()
        self.devices.watch.absolve(diagnosis.culprit)
        if ended is not None:
            first_sign_at = ended.first_sign_of(diagnosis, now)
            self.recoveries.begin(number, first_sign_at, ended.drill_of(diagnosis.worker), now)
            ended.note_end(action.leaving, now)

    def _note_reserve(
        self, action: SeeReserve | BeginReserve | StandBy | Relay, now: float
    ) -> None:
        match action:
            case SeeReserve():
                self.reserve.note_asked(now)
            case BeginReserve(specs, layout):
                self._expect(specs, layout, now)
                self.reserve.is_busy = True
            case StandBy(agent):
                self.agents[agent].can_serve, self.reserve.told = True, ""
            case Relay(layout, gone):
                for spec in layout:
                    self.answers |= inherited(self.answers, self.agents[spec.name].spec, spec)
                self.agents.expect((), layout)
                self.reserve.gone.update(gone)
                self.awaited = ""

    def _expect(
        self, specs: tuple[AgentSpec, ...], layout: tuple[AgentSpec, ...], now: float
    ) -> None:
        self.agents.expect(specs, layout, now)
        # A new life of that name has ended what was left of the one before.
        self.reserve.gone.difference_update(spec.name for spec in specs)

    def _note_search(self, action: Record | GoOn | LoseAgent | SeekNodes, now: float) -> None:
        match action:
            case Record(Waiting(text=text)):
                self.awaited = text
            case Record(RecoveryDecided(action=decided)):
                self.decided = decided
            case Record(DeviceQuarantined() as event):
                self.devices.note_quarantine(event, self.agents.of_worker(event.worker))
            case Record(SpareShort(text=text)):
                self.reserve.told = text
            case Record(FirstStep()) if self.first_step_at is None:
                self.first_step_at = now
            case GoOn():
                self.error = None
            case LoseAgent(agent, reason):
                self.lose(self.agents[agent], reason, now)
                self.agents[agent].is_told = True
            case Record(SurvivorLost(agent=agent)) if agent:
                self.agents[agent].is_told = True
            case SeekNodes():
                self.nodes = None

    def _note_agents(
        self,
        action: StartAgents
        | AskWhoEnded
        | DropAgent
        | TryMachine
        | AskForPaths
        | AskForModel
        | AskForFingerprints,
        now: float,
    ) -> None:
        match action:
            case StartAgents(specs, layout):
                self._expect(specs, layout, now)
                self.agents.asked_at = now
                self.agents.is_asked = False  # what was asked of an earlier life may have failed
                self.are_placed = False
            case AskWhoEnded():
                self.agents.note_asked(now)
            case DropAgent(agent):
                self.agents[agent].is_dropped = True
            case TryMachine(agent):
                self.agents[agent].tried_at = now
            case AskForPaths(number, wanted):
                self.paths.begin(number, wanted)
            case AskForModel(_, worker):
                self.answers.pop((INSPECT, worker), None)
            case AskForFingerprints(workers):
                self._forget_fingerprints(workers)
                for handle in self.agents.named(tuple(workers)):
                    handle.is_asked = True

    def _forget_fingerprints(self, workers: dict[str, tuple[str, ...]]) -> None:
        for names in workers.values():
            for worker in names:
                self.answers.pop((FINGERPRINT, worker), None)

    def _begin_generation(self, action: ForkGeneration, now: float) -> None:
        self.number, self.step = action.number, action.step
        self.recorded = min(self.recorded, action.step)
        pids = self.agents.kept_pids if self.generation is None else self.generation.survivors
        self.generation = Generation.of_plan(action.number, action.plan, now, pids)
        self.has_begun = True
        self.health.begin_generation()
        self.recoveries.note_begun(now)
        recorded = self.checkpoints.begin_from(action.in_memory)
        if recorded is not None:
            self.ledgers = Ledgers(recorded)
        self.recomputation = Recomputation(dict(self.ledgers.steps))
        # An agent may have been lost while there was no generation to lose workers of.
        for handle in self.agents.lost:
            if handle.failure is not None:
                self.generation.note_lost(handle.failure, now)
