"""Decide about agents that stand by: whose places they take in a recovery, when more of them are
started beside the training, and when a run that goes on with fewer workers takes them back. Pure.

Nothing here holds training up, and nothing that goes wrong here is a failure of the run: an agent
that stands by and is gone is told, and another one is sought.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dougong.addresses import read_ports
from dougong.errors import DougongError, LaunchError
from dougong.fault.diagnosis import FailureKind
from dougong.fault.policy import Decision
from dougong.fault.replacement import Places, Remedy, at_places, remedy
from dougong.fingerprint.record import Fingerprint
from dougong.launcher.agent.answers import (
    FINGERPRINT,
    probed_by,
    read_fingerprints,
    strangers,
)
from dougong.launcher.controller.actions import (
    Action,
    AskForFingerprints,
    AskToRest,
    BeginReserve,
    EndRested,
    Enter,
    LoseAgent,
    Record,
    Relay,
    SeeReserve,
    StandBy,
)
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.inbound.generation import Generation
from dougong.launcher.controller.looks import serving_facts
from dougong.launcher.controller.states import Growing, Recovering, Running, Stage, State
from dougong.planner.agreement import check_agents
from dougong.planner.listeners import check_ports
from dougong.planner.memory import plan_that_fits
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec, in_rank_order
from dougong.planner.reserve import (
    ReserveLayout,
    fill_gaps,
    lay_out_reserve,
    missing_workers,
    take_places,
)
from dougong.records import events
from dougong.ui.formatting import worker_list

GROW = Decision("restart", "agents for the workers that are missing stand by; nothing has failed")


def first_reserve(
    policy: RunPolicy, layout: Sequence[AgentSpec], nodes: Sequence[Node]
) -> tuple[AgentSpec, ...]:
    """The agents that stand by from a run's start, as far as there is room for them then."""
    return lay_out_reserve(policy.job.islands, nodes, policy.shared_devices, layout).specs


@dataclass(frozen=True)
class Reserve:
    """One look at the agents that stand by, `now`."""

    facts: RunFacts
    policy: RunPolicy
    now: float

    # In every state

    def keep(self) -> tuple[Action, ...]:
        """Those that are gone are told and forgotten; those that have come are looked at."""
        fallen = self.facts.agents.fallen
        if fallen:
            return tuple(self._bury(fallen))
        return tuple(self._admit())

    def _bury(self, fallen: Sequence[AgentHandle]) -> Iterator[Action]:
        for handle in fallen:
            lost = events.SpareLost(
                generation=self.facts.number,
                agent=handle.spec.name,
                node=self.facts.machine_of(handle),
                reason="its end is not known" if handle.failure is None else handle.failure.reason,
            )
            yield Record(lost)
        left = [handle.spec for handle in self.facts.agents.all if handle not in fallen]
        yield Relay(tuple(left), tuple(handle.spec.name for handle in fallen))

    def _admit(self) -> Iterator[Action]:
        for handle in self.facts.agents.standing:
            if not handle.can_serve and self.facts.model is not None:
                yield from self._look_at(handle)

    def _look_at(self, handle: AgentHandle) -> Iterator[Action]:
        """From its start until it stands by: what is wrong with it, if anything is, ends it."""
        deadlines, name = self.policy.deadlines, handle.spec.name
        limit = "agents_ready_s" if handle.has_joined else "agents_join_s"
        if handle.is_ready and handle.has_joined:
            yield from self._compare(handle)
        elif self.now - handle.begun_at > getattr(deadlines, limit):
            yield LoseAgent(name, f"not ready after {deadlines.words(limit)}")

    def _compare(self, handle: AgentHandle) -> Iterator[Action]:
        """It must be like those whose places it may take: their software, and the arithmetic of
        their devices."""
        name, probed = handle.spec.name, probed_by(handle.spec)
        if self.policy.takes_fingerprints and not handle.is_asked:
            yield AskForFingerprints({name: tuple(dict.fromkeys(probed.values()))})
            return
        answers = self.facts.answers
        if handle.is_asked and any((FINGERPRINT, w) not in answers for w in probed.values()):
            return
        why = self._strange(handle)
        if why:
            yield LoseAgent(name, why)
            return
        node = self.facts.machine_of(handle)
        yield StandBy(name)
        yield Record(events.SpareStands(generation=self.facts.number, agent=name, node=node))

    def _strange(self, handle: AgentHandle) -> str:
        """Why it may take no place; empty where it may."""
        assert handle.facts is not None
        name = handle.spec.name
        try:
            check_agents({**serving_facts(self.facts), name: handle.facts})
            prints = self._prints(handle) if handle.is_asked else {}
        except DougongError as error:
            return str(error).splitlines()[0]
        known = self.facts.judged.prints
        like = [known[worker] for worker in known if worker.startswith(f"{handle.spec.island}/")]
        if not prints or not like or not self.policy.job.needs_exact_kernels:
            return ""
        before = dict.fromkeys(prints, like[0])
        return strangers({name: tuple(prints)}, prints, before).get(name, "")

    def _prints(self, handle: AgentHandle) -> dict[str, Fingerprint]:
        """What its devices compute. Raises what a probe has raised."""
        probed = {handle.spec.name: probed_by(handle.spec)}
        run_dir = self.policy.run_dir
        return read_fingerprints(probed, self.facts.answers, run_dir, lambda worker: "")

    def words(self) -> tuple[str, ...]:
        """Who stands by, for whom nobody does, and whom the run does without, one line each."""
        agents, lines = self.facts.agents, []
        for handle in agents.standing:
            does = "stands by" if handle.can_serve else "is about to stand by"
            lines.append(f"{handle.spec.name} on {self.facts.machine_of(handle)} {does}")
        serving = [handle.spec for handle in agents.serving]
        islands = self.policy.job.islands if serving else ()
        standing = [handle.spec.island for handle in agents.standing]
        for island in islands:
            there = standing.count(island.name)
            if there < island.spares:
                many = f"{there} of {island.spares} stand" if there else "none stands"
                lines.append(f"spares: {many} by for {island.name}")
        missing = missing_workers(islands, serving)
        if missing:
            lines.append(f"goes on without {worker_list(missing)}, until there is a node")
        return tuple(lines)

    # While a generation trains

    def next_actions(self, state: State, generation: Generation) -> tuple[Action, ...]:
        """What is due for them beside the training."""
        if generation.all_rest:
            number = generation.number
            leaving = Recovering(None, GROW, Stage.WORKERS_END, self.now)
            return EndRested(number), Enter(leaving)
        if not isinstance(state, Running) or not generation.has_stepped:
            return ()
        return self._grow(generation) or self._seek()

    def _grow(self, generation: Generation) -> tuple[Action, ...]:
        """Have the generation end its step, when agents for missing workers stand by."""
        agents = self.facts.agents
        is_awaited = any(not handle.can_serve for handle in agents.standing)
        if is_awaited or self.facts.checkpoints.awaited or not self.grown():
            return ()
        number = generation.number
        told = events.RecoveryDecided.of(number, Remedy("grow_back", GROW.reason))
        return Record(told), AskToRest(number), Enter(Growing(number, self.now))

    def grown(self) -> tuple[AgentSpec, ...]:
        """Agents that stand by, with the workers that the run has to do without; none where it does
        without nobody, or the job would not fit so."""
        agents = self.facts.agents
        serving = [handle.spec for handle in agents.serving]
        if not missing_workers(self.policy.job.islands, serving):
            return ()
        new = tuple(fill_gaps(self.policy.job.islands, serving, agents.ready))
        return new if new and not self.cannot_serve([*serving, *new]) else ()

    def cannot_serve(self, specs: Sequence[AgentSpec]) -> str:
        """Why the job cannot go on with these agents; empty where it can."""
        facts = self.facts
        assert facts.model is not None
        ordered = in_rank_order(self.policy.job.islands, specs)
        if not ordered:
            return "no worker is left"
        try:
            plan_that_fits(self.policy.job, facts.model.inventory, ordered, facts.agents.facts)
        except DougongError as error:
            return str(error)
        return ""

    def _seek(self) -> tuple[Action, ...]:
        """Start agents that should stand by and do not, where there is room for them now."""
        reserve, agents = self.facts.reserve, self.facts.agents
        # One start at a time: the next one's look at the shared folder ends this one's.
        starts = any(not handle.has_joined for handle in agents.standing)
        kept = [handle.spec for handle in agents.all]
        wanted = self._wanted(kept)
        told: tuple[Record, ...] = ()
        if reserve.nodes is not None and not starts:
            if wanted.specs:
                return self._begin(wanted.specs, kept, reserve.nodes)
            told = self._tell(wanted.short)
        is_due = self.now - reserve.looked_at >= self.policy.deadlines.reserve_every_s
        if reserve.is_busy or not is_due or not (wanted.short or reserve.gone or starts):
            return told
        return *told, SeeReserve(tuple(sorted(reserve.gone)), self.policy.kinds)

    def _wanted(self, kept: Sequence[AgentSpec]) -> ReserveLayout:
        """What should stand by beside those that are `kept`: where there is room, as far as nodes
        are known, and else all of it as `short`."""
        nodes = self.facts.devices.usable(self.facts.reserve.nodes or ())
        fit = [node for node in nodes if not self._is_left_alone(node)]
        return lay_out_reserve(self.policy.job.islands, fit, self.policy.shared_devices, kept)

    def _is_left_alone(self, node: Node) -> bool:
        return self.facts.reserve.is_left_alone(node.name, self.now)

    def _begin(
        self, new: tuple[AgentSpec, ...], kept: Sequence[AgentSpec], nodes: Sequence[Node]
    ) -> tuple[Action, ...]:
        layout = in_rank_order(self.policy.job.islands, [*kept, *new])
        try:
            check_ports(read_ports(self.policy.job.ports), layout, nodes, self.facts.host or "")
        except LaunchError as error:
            return self._tell((str(error),))
        return (BeginReserve(new, layout),)

    def _tell(self, short: tuple[str, ...]) -> tuple[Record, ...]:
        """What is missing, where that is news."""
        text = "; ".join(short)
        reserve = self.facts.reserve
        waits = any(self._is_left_alone(node) for node in reserve.nodes or ())
        if waits or text in ("", reserve.told):
            return ()
        return (Record(events.SpareShort(generation=self.facts.number, text=text)),)

    # In a recovery

    def remedy(self, decision: Decision, kind: FailureKind) -> Remedy:
        """What is told as a generation is broken: the decision, and where those go on whose agents
        are lost by now."""
        if self.facts.stop is not None and decision.action != "fail":
            return Remedy("stop", "the run is being stopped, so that nothing is begun anew")
        places = Places(self._who(self._taken().values())) if self.facts.agents.lost else None
        return remedy(decision, kind, places)

    def decided(self, told: Remedy) -> tuple[Record, ...]:
        """What is decided in a recovery on its way, where that is another thing than before."""
        if told.measure == self.facts.decided:
            return ()
        return (Record(events.RecoveryDecided.of(self.facts.number, told, again=True)),)

    def _taken(self) -> dict[str, AgentSpec]:
        """By name of a lost agent, the one that takes its place, if one stands by."""
        agents = self.facts.agents
        return take_places([handle.spec for handle in agents.lost], agents.ready)

    def _who(self, specs: Iterable[AgentSpec]) -> str:
        agents, machine_of = self.facts.agents, self.facts.machine_of
        return worker_list([f"{spec.name} on {machine_of(agents[spec.name])}" for spec in specs])

    def take_places(self) -> tuple[Action, ...]:
        """Agents that stand by take the places of lost ones; nothing where none fits."""
        agents, taken = self.facts.agents, self._taken()
        new = {spec.name: spec for spec in taken.values()}
        if not new:
            return ()
        told = []
        for place, spec in taken.items():
            took = events.SpareTook(
                generation=self.facts.number,
                agent=spec.name,
                node=self.facts.machine_of(agents[spec.name]),
                place=place,
                workers=spec.workers,
            )
            told.append(Record(took))
        kept = [h.spec for h in agents.all if h.spec.name not in (*taken, *new)]
        layout = in_rank_order(self.policy.job.islands, [*kept, *new.values()])
        decided = self.decided(at_places(Places(self._who(new.values()))))
        return *decided, Relay(layout, tuple(taken)), *told

    def grow(self) -> tuple[Action, ...]:
        """Agents that stand by are given the workers that the run has to do without."""
        new = {spec.name: spec for spec in self.grown()}
        agents = self.facts.agents
        kept = [handle.spec for handle in agents.all if handle.spec.name not in new]
        layout = in_rank_order(self.policy.job.islands, [*kept, *new.values()])
        before = sum(spec.num_workers for spec in kept)
        workers = tuple(itertools.chain(*(spec.workers for spec in new.values())))
        grown = events.RunGrown(
            generation=self.facts.number,
            before=before,
            now=before + len(workers),
            workers=workers,
        )
        return Relay(layout), Record(grown)

    def shrink(self, reason: str) -> tuple[Action, ...]:
        """Go on with the workers that are left."""
        agents, left = self.facts.agents, self._left
        kept = [handle.spec for handle in agents.all if handle in (*left, *agents.standing)]
        now = sum(spec.num_workers for spec in kept)
        shrunk = events.RunShrunk(
            generation=self.facts.number,
            before=sum(handle.spec.num_workers for handle in agents.serving),
            now=now,
            missing=missing_workers(self.policy.job.islands, kept),
            reason=reason,
        )
        names = {spec.name for spec in kept}
        gone = tuple(handle.spec.name for handle in agents.all if handle.spec.name not in names)
        told = self.decided(Remedy("shrink", reason))
        return *told, Relay(tuple(kept), gone), Record(shrunk)

    @property
    def cannot_shrink(self) -> str:
        """Why the job cannot go on with the workers that are left; empty where it can."""
        return self.cannot_serve([handle.spec for handle in self._left])

    @property
    def _left(self) -> list[AgentHandle]:
        """Agents that have workers, and live."""
        living = self.facts.agents.living
        return [handle for handle in self.facts.agents.serving if handle in living]
