"""Decide, while a run starts or recovers: the stages from an open backend to a forked generation,
what each asks for, when it is over, and how long it may take. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dougong.errors import DougongError, LaunchError
from dougong.fault.drill import pending
from dougong.fault.paths import paths_to_try
from dougong.fingerprint.record import Fingerprint
from dougong.job.drills.drill import listed
from dougong.launcher.agent.answers import (
    FINGERPRINT,
    INSPECT,
    InspectedModel,
    judge_fingerprints,
    probed_by,
    read_fingerprints,
    read_model,
    strangers,
)
from dougong.launcher.controller.actions import (
    Action,
    AskForFingerprints,
    AskForModel,
    AskForPaths,
    AskWhoEnded,
    Enter,
    FindCheckpoint,
    ForkGeneration,
    GiveUp,
    ListNodes,
    LoseAgent,
    Record,
    TrustMemory,
    UseFingerprints,
    UseModel,
    UsePlan,
)
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.departure import (
    is_held_in_memory,
    last_step,
    rolls_back,
    without_checkpoint,
)
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.looks import (
    look_at_agents,
    look_at_memory,
    moved_workers,
    remarks_on,
    set_aside,
    settle_forms,
    tell,
    warning,
)
from dougong.launcher.controller.states import Recovering, Running, Stage, Starting
from dougong.parallel.plan import Inventory, Plan
from dougong.planner.memory import plan_that_fits
from dougong.records import events
from dougong.remarks import Remarks

_LIMITS = {
    Stage.BACKEND: "backend_open_s",
    Stage.NODES: "backend_open_s",
    Stage.PLACES: "backend_open_s",
    Stage.JOIN: "agents_join_s",
    Stage.PATHS: "paths_s",
    Stage.READY: "agents_ready_s",
    Stage.MODEL: "inspection_s",
    Stage.FINGERPRINTS: "fingerprint_s",
    Stage.CHECKPOINT: "find_checkpoint_s",
}
"""The field of `Deadlines` that limits each stage."""

_OF_START = (
    Stage.BACKEND,
    Stage.NODES,
    Stage.PLACES,
    Stage.JOIN,
    Stage.PATHS,
    Stage.READY,
    Stage.MODEL,
    Stage.FINGERPRINTS,
    Stage.CHECKPOINT,
)
_OF_RECOVERY = (
    Stage.PLACES,
    Stage.JOIN,
    Stage.PATHS,
    Stage.READY,
    Stage.FINGERPRINTS,
    Stage.CHECKPOINT,
)


@dataclass(frozen=True)
class Preparation:
    """One look at a start or a recovery: `now`, in its stage."""

    facts: RunFacts
    state: Starting | Recovering
    policy: RunPolicy
    now: float

    def next_actions(self) -> tuple[Action, ...]:
        """On to the next stage when this one is over; nothing while there is time to wait.

        Raises what makes the next stage impossible.
        """
        if not self._is_over():
            limit_s = getattr(self.policy.deadlines, _LIMITS[self.state.stage])
            is_late = self.now - self.state.since > limit_s
            return self._give_up() if is_late else self._ask_who_ended()
        if self.state.stage is Stage.CHECKPOINT:
            return self._begin_generation()
        # What a stage has brought may forbid the next one; that is recorded before the run ends.
        done = self._finish()
        if any(isinstance(action, GiveUp | LoseAgent) for action in done):
            return done
        return done + self.enter(self._following())

    def _ask_who_ended(self) -> tuple[Action, ...]:
        """An agent that cannot start says so to nobody but its backend."""
        agents = self.facts.agents
        is_awaited = self.state.stage in (Stage.JOIN, Stage.PATHS, Stage.READY)
        if is_awaited and agents.is_due(self.now, self.policy.deadlines):
            return (AskWhoEnded(),)
        return ()

    def enter(self, state: Starting | Recovering) -> tuple[Action, ...]:
        """Begin a stage. What makes that impossible is this stage's failure."""
        try:
            asked = dataclasses.replace(self, state=state)._begin()
        except DougongError as error:
            asked = (GiveUp(error),)
        return (Enter(state), *asked)

    def _following(self) -> Starting | Recovering:
        stages = _OF_START if isinstance(self.state, Starting) else _OF_RECOVERY
        stage = stages[stages.index(self.state.stage) + 1]
        return dataclasses.replace(self.state, stage=stage, since=self.now)

    # The agents that this is about

    @property
    def _agents(self) -> tuple[AgentHandle, ...]:
        """Those being started: all at the start, the lost ones in a recovery. Nobody waits for
        those that are to stand by."""
        if isinstance(self.state, Recovering):
            return self.facts.agents.named(self.state.restarted)
        return self.facts.agents.serving

    @property
    def _asked(self) -> dict[str, dict[str, str]]:
        """By agent: worker -> the worker in whose name its device is probed."""
        if not self.policy.takes_fingerprints:
            return {}
        return {handle.spec.name: probed_by(handle.spec) for handle in self._agents}

    def _late_agents(self) -> tuple[str, ...]:
        is_join = self.state.stage is Stage.JOIN
        late = []
        for handle in self._agents:
            has_come = handle.has_joined if is_join else handle.is_ready
            if not has_come:
                late.append(handle.spec.name)
        return tuple(late)

    def _late_probes(self) -> tuple[str, ...]:
        late = []
        for workers in self._asked.values():
            for probed in dict.fromkeys(workers.values()):
                if (FINGERPRINT, probed) not in self.facts.answers:
                    late.append(probed)
        return tuple(late)

    @property
    def _inspector(self) -> tuple[str, str]:
        """The agent and the worker in whose name the model is looked at: the first ones."""
        spec = self.facts.agents.serving[0].spec
        return spec.name, spec.workers[0]

    # When a stage is over

    def _is_over(self) -> bool:
        facts = self.facts
        match self.state.stage:
            case Stage.BACKEND:
                return facts.host is not None
            case Stage.NODES:
                return False  # it ends with the agents' start: `FirstLayout`
            case Stage.PLACES:
                return facts.are_placed
            case Stage.JOIN | Stage.READY:
                return not self._late_agents()
            case Stage.PATHS:
                return not facts.paths.missing(facts.agents.path_ends)
            case Stage.MODEL:
                return (INSPECT, self._inspector[1]) in facts.answers
            case Stage.FINGERPRINTS:
                return not self._late_probes()
            case _:
                return facts.checkpoints.found is not None

    def _give_up(self) -> tuple[Action, ...]:
        """The error of a stage that took too long: who has not done what, and the key that says how
        long that may take. A recovery goes on without agents that are late."""
        awaits_agents = self.state.stage in (Stage.JOIN, Stage.READY)
        late_agents = self._late_agents() if awaits_agents else ()
        if self.state.stage is Stage.PATHS:
            self._finish_paths()  # what is known by now says more than who is late
        waited = self.policy.deadlines.words(_LIMITS[self.state.stage])
        text = f"{self._missing()}: the controller waited {waited}"
        if isinstance(self.state, Recovering) and late_agents:
            return tuple(LoseAgent(agent, text) for agent in late_agents)
        return (GiveUp(LaunchError(text)),)

    def _missing(self) -> str:
        agents = ", ".join(self._late_agents())
        match self.state.stage:
            case Stage.BACKEND:
                return "the backend has not opened"
            case Stage.NODES:
                return "the backend has not listed its nodes"
            case Stage.PLACES:
                return "the backend has not started the agents"
            case Stage.JOIN:
                return f"no first message of agents {agents}"
            case Stage.PATHS:
                return "not all paths between the machines have been tried"
            case Stage.READY:
                return f"agents {agents} have not imported what workers need"
            case Stage.MODEL:
                return f"{self._inspector[1]} has not ended its look at the model and the data"
            case Stage.FINGERPRINTS:
                return f"no fingerprint of the devices of {', '.join(self._late_probes())}"
            case _:
                return "the search for a valid checkpoint has not ended"

    # From one stage to the next

    def _begin(self) -> tuple[Action, ...]:
        """What this stage asks for."""
        facts = self.facts
        match self.state.stage:
            case Stage.NODES:
                assert facts.host is not None
                return (ListNodes(facts.host, self.policy.kinds),)
            case Stage.PATHS:
                names = [handle.spec.name for handle in facts.agents.serving]
                wanted = paths_to_try(names, {handle.spec.name for handle in self._agents})
                return (AskForPaths(facts.paths.number + 1, wanted),)
            case Stage.MODEL:
                return (AskForModel(*self._inspector),)
            case Stage.FINGERPRINTS if self.policy.takes_fingerprints:
                asked = {}
                for agent, workers in self._asked.items():
                    if not facts.agents[agent].can_serve:  # it was probed while it stood by
                        asked[agent] = tuple(dict.fromkeys(workers.values()))
                return (AskForFingerprints(asked),)
            case Stage.CHECKPOINT:
                return (*self._lay_plan(), self._seek_state())
            case _:
                return ()

    def _finish(self) -> tuple[Action, ...]:
        """What this stage has brought."""
        match self.state.stage:
            case Stage.JOIN:
                return look_at_agents(self.facts, self.policy, self._agents)
            case Stage.PATHS:
                return self._finish_paths()
            case Stage.READY if isinstance(self.state, Recovering):
                assert self.facts.model is not None
                return self._refuse_plan(self.facts.model.inventory)
            case Stage.MODEL:
                return self._finish_model()
            case Stage.FINGERPRINTS if self.policy.takes_fingerprints:
                return self._finish_fingerprints()
            case _:
                return ()

    def _finish_paths(self) -> tuple[Action, ...]:
        """Workers that cannot reach each other must not begin: they would hang without a word."""
        facts = self.facts
        problem = facts.paths.problem(facts.agents.path_ends, self.policy.deadlines)
        if problem is not None:
            raise LaunchError(problem)
        return ()

    def _finish_model(self) -> tuple[Action, ...]:
        job, worker = self.policy.job, self._inspector[1]
        log = self.policy.run_dir.log_file(0, worker)
        model = read_model(job, self.facts.answers[(INSPECT, worker)], log, self._node_of(worker))
        generation = self.facts.number
        inspected = Record(model.event(generation))
        refused = self._refuse_plan(model.inventory)
        return UseModel(model), inspected, *self._remarks(model), *refused

    def _remarks(self, model: InspectedModel) -> Iterator[Record]:
        """What a person is told once of the model and the data."""
        yield from tell(self.facts, Remarks(model.notes, model.warnings))
        if self.facts.number > 0 and not self.policy.has_sources:
            yield warning(
                self.facts,
                "the run's record does not say what it had read when it began, as an earlier "
                "release did not write it: the files of today are taken for the same, and kept",
            )

    def _node_of(self, worker: str) -> str:
        return self.facts.agents.node_of(worker, self.policy.host)

    def _refuse_plan(self, inventory: Inventory) -> tuple[GiveUp, ...]:
        """What cannot be laid out here, or does not fit, before devices are probed: that may take
        long."""
        try:
            self._plan_on_agents(inventory)
        except DougongError as error:
            return (GiveUp(error),)
        return ()

    def _finish_fingerprints(self) -> tuple[Action, ...]:
        answers, run_dir = self.facts.answers, self.policy.run_dir
        read = read_fingerprints(self._asked, answers, run_dir, self._node_of)
        prints = {**self.facts.judged.prints, **read}
        specs = [handle.spec for handle in self.facts.agents.serving]
        judged = judge_fingerprints(self.policy.job, prints, specs, self._node_of)
        number, seconds = self.facts.number, round(self.now - self.state.since, 3)
        taken = events.FingerprintsTaken(generation=number, classes=judged.classes, seconds=seconds)
        warnings = [warning(self.facts, text) for text in judged.warnings]
        strangers = self._strangers(prints)
        if strangers:
            return Record(taken), *strangers
        if judged.refusal is not None:
            return Record(taken), *warnings, GiveUp(LaunchError(judged.refusal))
        forms = settle_forms(self.facts, self.policy.job, prints)
        return Record(taken), *warnings, *forms, UseFingerprints(judged)

    def _strangers(self, prints: Mapping[str, Fingerprint]) -> tuple[LoseAgent, ...]:
        """Agents of a recovery whose devices would change the bits of a job that promises them."""
        if isinstance(self.state, Starting) or not self.policy.job.needs_exact_kernels:
            return ()
        found = strangers(self._asked, prints, self.facts.judged.prints)
        return tuple(LoseAgent(agent, text) for agent, text in found.items())

    def _lay_plan(self) -> tuple[Action, ...]:
        """The plan on the agents that there are now; nothing when it is the one in use."""
        facts = self.facts
        if self._agents == () and facts.agents.serve(facts.plan):
            return ()
        assert facts.model is not None
        plan = self._plan_on_agents(facts.model.inventory)
        # An agent may have come back on another node: then devices, and with them the plan, differ.
        if plan == facts.plan:
            return ()
        known = facts.agents.facts.values()
        event = events.PlanLaid(
            generation=facts.number,
            workers=len(plan.workers),
            lanes=plan.num_lanes,
            experts=plan.num_experts,
            environment={agent.island: agent.environment for agent in known},
            moved=moved_workers(facts.plan, plan),
        )
        warnings = look_at_memory(facts, self.policy, facts.model.inventory, plan)
        return UsePlan(plan), Record(event), *warnings

    def _seek_state(self) -> TrustMemory | FindCheckpoint:
        """From where the next generation goes on."""
        state, parent = self.state, self.facts.checkpoints.parent
        if isinstance(state, Starting) or not is_held_in_memory(self.facts, state):
            return FindCheckpoint()
        return TrustMemory(None if parent is None else self.policy.run_dir.checkpoints / parent)

    def _plan_on_agents(self, inventory: Inventory) -> Plan:
        agents = self.facts.agents
        specs = [handle.spec for handle in agents.serving]
        return plan_that_fits(self.policy.job, inventory, specs, agents.facts)

    def _begin_generation(self) -> tuple[Action, ...]:
        """Everything is there: the next generation begins."""
        facts, found, plan = self.facts, self.facts.checkpoints.found, self.facts.plan
        assert found is not None and plan is not None
        news = remarks_on(facts, found)
        if found.refusal is not None:
            return *news, *without_checkpoint(facts, self.state, self.policy, self.now)
        news += set_aside(facts, found)
        number = facts.number + 1
        drills = pending(listed(self.policy.job.drill), facts.fired)
        (step, held), skips = last_step(facts, found), tuple(sorted(facts.skipped))
        back = rolls_back(self.state)
        fork = ForkGeneration(number, plan, step, found.directory, drills, held, back, skips)
        return *news, Record(fork.event()), fork, Enter(Running(number))
