"""What is known of a run's agents: who is expected, who has joined, who is ready, who is lost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dougong.control.channel import Channel
from dougong.control.handshake import AgentFacts
from dougong.control.path_messages import Hearing, PathEnd
from dougong.control.progress import ForkServerSigns
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.observation import AgentLost, LinkCut
from dougong.fault.reach import AgentView
from dougong.launcher.agent.remarks import JoinedAgent
from dougong.parallel.plan import Plan
from dougong.planner.placement import AgentSpec


@dataclass
class AgentHandle:
    """One agent in its present life. `facts`: what it said when it joined, and `clock_ahead_s` what
    its clock said then; `path_end`: where the paths to it are tried; `lost`: why it is gone, and
    `failure`: that as one of the run; `is_dropped`: whether its connection has been closed since.
    `left`: how its connection ended before it was ready, and when (monotonic seconds), while its
    backend may yet know why. `hearing`: what it hears of other machines; `answers`: whether its own
    takes connections, as tried last, `tried_at`. `fork_server`: how that is. `begun_at`: when its
    start was ordered (monotonic seconds); `is_asked`: of one that stands by, its devices are being
    probed; `can_serve`: it can take a place at once; `is_told`: a person knows of its loss, or the
    controller itself has given it up."""

    spec: AgentSpec
    facts: AgentFacts | None = None
    channel: Channel | None = None
    path_end: PathEnd | None = None
    is_ready: bool = False
    lost: str | None = None
    is_dropped: bool = False
    clock_ahead_s: float = 0.0
    left: tuple[str, float] | None = None
    failure: AgentLost | LinkCut | None = None
    hearing: Hearing = field(default_factory=Hearing)
    answers: bool | None = None
    tried_at: float = -math.inf
    fork_server: ForkServerSigns = field(default_factory=ForkServerSigns)
    begun_at: float = 0.0
    is_asked: bool = False
    can_serve: bool = False
    is_told: bool = False

    @property
    def is_unexplained(self) -> bool:
        """Whether it has gone without a word, so that its backend is asked why."""
        return self.left is not None and self.lost is None

    @property
    def has_joined(self) -> bool:
        """Whether it has said all that it says of itself."""
        return self.facts is not None and self.path_end is not None

    @property
    def address(self) -> str:
        """The agent's network address, as this process sees it."""
        return self.channel.peer_address if self.channel is not None else ""


@dataclass
class AgentTable:
    """All agents of a run, by name. `is_asked`: whether the backend has yet to say which of them
    have ended; `asked_at`: when it was asked last. `hearing`: what the controller hears itself of
    their machines; `looked_at`: when the agents were judged last, and `judged_from`: what they have
    said since then counts (monotonic seconds); `lag_s`: so much later than in a small run their
    heartbeats come."""

    handles: dict[str, AgentHandle] = field(default_factory=dict)
    is_asked: bool = False
    asked_at: float = -math.inf
    looked_at: float = -math.inf
    judged_from: float = -math.inf
    lag_s: float = 0.0
    hearing: Hearing = field(default_factory=Hearing)
    _owners: dict[str, str] = field(default_factory=dict)  # by worker, as far as it was asked for
    _machines: frozenset[str] | None = None  # of all who have joined, as far as it was asked for

    def __getitem__(self, agent: str) -> AgentHandle:
        return self.handles[agent]

    @property
    def all(self) -> tuple[AgentHandle, ...]:
        return tuple(self.handles.values())

    @property
    def serving(self) -> tuple[AgentHandle, ...]:
        """Those that have workers, in rank order."""
        return tuple(handle for handle in self.handles.values() if not handle.spec.stands_by)

    @property
    def standing(self) -> tuple[AgentHandle, ...]:
        """Those that stand by, or will, and are not lost."""
        spare = (handle for handle in self.handles.values() if handle.spec.stands_by)
        return tuple(handle for handle in spare if handle.lost is None)

    @property
    def ready(self) -> tuple[AgentSpec, ...]:
        """Those that can take a place at once."""
        return tuple(handle.spec for handle in self.standing if handle.can_serve)

    @property
    def lost(self) -> tuple[AgentHandle, ...]:
        """Those that had workers, and are gone."""
        return tuple(handle for handle in self.serving if handle.lost is not None)

    @property
    def fallen(self) -> tuple[AgentHandle, ...]:
        """Those that stood by, and are gone."""
        spare = (handle for handle in self.handles.values() if handle.spec.stands_by)
        return tuple(handle for handle in spare if handle.lost is not None)

    @property
    def joined(self) -> list[JoinedAgent]:
        """Those who have joined, with what they said."""
        found = []
        for handle in self.handles.values():
            if handle.facts is not None:
                found.append(JoinedAgent(handle.spec, handle.facts, handle.clock_ahead_s))
        return found

    @property
    def facts(self) -> dict[str, AgentFacts]:
        """What those said who have joined, by agent."""
        joined = self.handles.items()
        return {name: handle.facts for name, handle in joined if handle.facts is not None}

    @property
    def kept_pids(self) -> dict[str, int | None]:
        """The process ids of workers that an earlier controller has left, by name."""
        found: dict[str, int | None] = {}
        for handle in self.living:
            if handle.facts is not None:
                found |= {name: worker.pid for name, worker in handle.facts.kept.items()}
        return found

    @property
    def kept_step(self) -> int:
        """The newest step that one of them holds in memory; 0 where none does."""
        steps = [0]
        for handle in self.living:
            if handle.facts is not None:
                steps += [worker.step for worker in handle.facts.kept.values()]
        return max(steps)

    @property
    def path_ends(self) -> dict[str, PathEnd]:
        """Where the paths to living agents that have workers are tried, by agent."""
        ends = {}
        for handle in self.serving:
            if handle.path_end is not None and handle.lost is None:
                ends[handle.spec.name] = handle.path_end
        return ends

    def of_worker(self, worker: str) -> AgentHandle | None:
        """The agent whose worker this is."""
        handle = self.handles.get(self._owners.get(worker, ""))
        if handle is None or worker not in handle.spec.workers:  # it has moved, or was not known
            for name, known in self.handles.items():
                self._owners |= dict.fromkeys(known.spec.workers, name)
            handle = self.handles.get(self._owners.get(worker, ""))
        is_its = handle is not None and worker in handle.spec.workers
        return handle if is_its else None

    def node_of(self, worker: str, here: str) -> str:
        """The node of a worker; empty where the whole run is on one machine, and that is `here`
        (empty: whichever), so that nobody asks which."""
        return self.node_of_agent(self.of_worker(worker), here)

    def node_of_agent(self, handle: AgentHandle | None, here: str) -> str:
        """The same of an agent's."""
        nodes = self._machines
        if nodes is None:
            nodes = self._machines = frozenset(facts.node for facts in self.facts.values())
        if handle is None or handle.facts is None or (len(nodes) == 1 and here in ("", *nodes)):
            return ""
        return handle.facts.node

    def on_nodes(self, workers: Sequence[str]) -> str:
        """` (on node1)`: where these run; empty where the whole run is on one machine."""
        found = dict.fromkeys(self.node_of(worker, "") for worker in workers)
        nodes = ", ".join(node for node in found if node)
        return f" (on {nodes})" if nodes else ""

    def named(self, agents: Sequence[str]) -> tuple[AgentHandle, ...]:
        """The handles of these agents."""
        return tuple(self.handles[name] for name in agents)

    @property
    def living(self) -> tuple[AgentHandle, ...]:
        """Those that have joined and are not lost."""
        joined = (handle for handle in self.handles.values() if handle.facts is not None)
        return tuple(handle for handle in joined if handle.lost is None)

    def serve(self, plan: Plan | None) -> bool:
        """Whether their workers are those of the plan."""
        workers = itertools.chain(*(handle.spec.workers for handle in self.serving))
        return plan is not None and list(workers) == [worker.name for worker in plan.workers]

    def expect(
        self, specs: Sequence[AgentSpec], layout: Sequence[AgentSpec], now: float = 0.0
    ) -> None:
        """From now on the agents of `layout`, in rank order, are the run's; others are forgotten.
        `specs`: those of them that begin a new life, and may join. The others may have other
        workers than before."""
        begun = {spec.name: AgentHandle(spec, begun_at=now) for spec in specs}
        handles = {**self.handles, **begun}
        self.handles = {spec.name: handles[spec.name] for spec in layout}
        self._owners, self._machines = {}, None
        for spec in layout:
            self.handles[spec.name].spec = spec

    def join(self, facts: AgentFacts, channel: Channel, clock_ahead_s: float = 0.0) -> bool:
        """Take an agent in; False for one that is not expected, or has joined already."""
        handle = self.handles.get(facts.agent)
        if handle is None or handle.channel is not None or handle.lost is not None:
            return False
        if _is_elsewhere(handle.spec, facts):
            return False  # an earlier life of that name, on a node that was cut off and is back
        handle.facts, handle.channel, handle.clock_ahead_s = facts, channel, clock_ahead_s
        self._machines = None
        return True

    def is_current(self, agent: str, channel: Channel) -> bool:
        """Whether what comes over this channel comes from the agent's present life."""
        handle = self.handles.get(agent)
        return handle is not None and handle.channel is channel and handle.lost is None

    def lose(self, handle: AgentHandle, failure: AgentLost | LinkCut, machine: str) -> None:
        """Count an agent as gone, by this failure."""
        handle.failure = failure
        handle.lost = f"agent {handle.spec.name} on {machine}: {failure.reason}"

    # Agents that are not heard

    def note_look(self, now: float) -> None:
        """Before anything is judged by the time. Who has not looked for long was held up himself,
        and what agents have said meanwhile is not read yet."""
        if math.isfinite(self.looked_at) and now - self.looked_at > DEADLINES.held_up_s:
            self.judged_from = now
        self.looked_at = now
        num_workers = sum(handle.spec.num_workers for handle in self.handles.values())
        self.lag_s = DEADLINES.heartbeat_lag_s(num_workers)

    def silent_s(self, handle: AgentHandle, now: float) -> float:
        """For how long an agent that has joined has not been heard, beyond the usual time between
        heartbeats of so large a run."""
        heard_at = handle.channel.heard_at if handle.channel is not None else now
        return max(0.0, now - max(heard_at, self.judged_from) - self.lag_s)

    def note_tried(self, agent: str, answers: bool) -> None:
        """Whether the machine of an agent takes connections."""
        if agent in self.handles:
            self.handles[agent].answers = answers

    def views(self, now: float, machine_of: Callable[[AgentHandle], str]) -> list[AgentView]:
        """How the living agents are now."""
        views = []
        for handle in self.living:
            silent_s = self.silent_s(handle, now)
            views.append(AgentView(handle.spec.name, machine_of(handle), silent_s, handle.answers))
        return views

    # Ends that no connection tells, since there is none yet

    def note_asked(self, now: float) -> None:
        """The backend is asked which agents have ended."""
        self.is_asked, self.asked_at = True, now

    def is_due(self, now: float, deadlines: Deadlines) -> bool:
        """Whether the backend should be asked again."""
        every_s = deadlines.poll_every_s if self.unexplained else deadlines.ended_every_s
        return not self.is_asked and now - self.asked_at >= every_s

    @property
    def unexplained(self) -> tuple[AgentHandle, ...]:
        """Those that have gone without a word before they were ready."""
        return tuple(handle for handle in self.handles.values() if handle.is_unexplained)

    def silent(self, now: float, deadlines: Deadlines) -> tuple[AgentHandle, ...]:
        """Agents that have not been heard for too long, and are not counted as lost yet."""
        found = []
        for handle in self.handles.values():
            if handle.channel is None or handle.lost is not None:
                continue
            if self.silent_s(handle, now) > deadlines.agent_silence_s:
                found.append(handle)
        return tuple(found)


def _is_elsewhere(spec: AgentSpec, facts: AgentFacts) -> bool:
    known = spec.node is not None and facts.ray_node is not None
    return known and facts.ray_node != spec.node
