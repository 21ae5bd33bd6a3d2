"""Decide where agents are laid out: all of them at a start, lost ones anew in a recovery; what is
awaited while they fit nowhere; and what follows when one cannot be started there. Pure.

Bits do not depend on the layout, so that any node that fits will do. Whatever goes wrong with an
agent before the next generation begins leads to another node, or to a further wait, until
`node_return_s` is over; only a generation's failure counts against `fault.max_restarts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dougong.addresses import read_ports
from dougong.errors import (
    CheckpointError,
    DougongError,
    LaunchError,
    NoRoomError,
    StorageError,
)
from dougong.fault.replacement import Places, WithoutPlace, at_places, without_place
from dougong.launcher.controller.actions import (
    Action,
    Enter,
    GoOn,
    LoseAgent,
    Record,
    SeekNodes,
    StartAgents,
)
from dougong.launcher.controller.config import RunPolicy
from dougong.launcher.controller.facts import RunFacts
from dougong.launcher.controller.inbound.agents import AgentHandle
from dougong.launcher.controller.looks import warning
from dougong.launcher.controller.reserve import Reserve, first_reserve
from dougong.launcher.controller.states import Recovering, Search, Stage, Starting, Unfit
from dougong.planner.listeners import check_ports
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec, in_rank_order, lay_out
from dougong.records import events
from dougong.ui.formatting import worker_list

_ON_NODES = (
    Stage.JOIN,
    Stage.PATHS,
    Stage.READY,
    Stage.FINGERPRINTS,
    Stage.CHECKPOINT,
)
"""Stages in which the agents that are started anew have been on their nodes."""


@dataclass(frozen=True)
class FirstLayout:
    """One look at a start whose nodes are listed, `now`."""

    facts: RunFacts
    state: Starting
    policy: RunPolicy
    now: float

    def next_actions(self) -> tuple[Action, ...]:
        """The agents' start where all find room, else what is said of it and another look; nothing
        where the start takes its course.

        Raises the NoRoomError that ends the run.
        """
        facts, stage = self.facts, self.state.stage
        if stage is Stage.PLACES and isinstance(facts.error, NoRoomError):
            # Somebody else was quicker; or what is listed as free can never be had, such as halves
            # of two devices.
            self._refuse_late(facts.error)
            return GoOn(), *self._look_again()
        if facts.error is not None or stage is not Stage.NODES or facts.nodes is None:
            return ()
        job, usable = self.policy.job, facts.devices.usable(facts.nodes)
        try:
            layout = lay_out(job.islands, usable, self.policy.shared_devices)
        except NoRoomError as error:
            return self._wait(error)
        reserve = first_reserve(self.policy, layout, usable)
        layout = in_rank_order(job.islands, [*layout, *reserve])
        check_ports(read_ports(job.ports), layout, facts.nodes, facts.host or "")
        return Enter(self._at(Stage.PLACES)), StartAgents(layout, layout)

    def _at(self, stage: Stage) -> Starting:
        return replace(self.state, stage=stage, since=self.now, sought_since=self._sought_since)

    @property
    def _sought_since(self) -> float:
        since = self.state.sought_since
        return self.now if since is None else since

    def _look_again(self) -> tuple[Action, ...]:
        return Enter(self._at(Stage.NODES)), SeekNodes((), self.policy.kinds)

    def _wait(self, error: NoRoomError) -> tuple[Action, ...]:
        """Say what is missing, where that is news, and look again in a moment. What others hold may
        be given back; what is not there at all, only a node that is joining can bring."""
        self._refuse_late(error)
        deadlines = self.policy.deadlines
        actions: list[Action] = []
        limit = _limit_of_wait(error)
        text = f"{error}; waits {deadlines.words(limit)} at most (--wait SECONDS)"
        if text != self.facts.awaited:
            actions.append(Record(events.Waiting(generation=self.facts.number, text=text)))
        if self.state.sought_since is None:
            actions.append(Enter(replace(self.state, sought_since=self.now)))
        elif self.now - self.facts.nodes_at >= deadlines.node_poll_s:
            actions += self._look_again()
        return tuple(actions)

    def _refuse_late(self, error: NoRoomError) -> None:
        """Raises the error where room has been waited for as long as may be."""
        limit = _limit_of_wait(error)
        limit_s = getattr(self.policy.deadlines, limit) if self.policy.may_grow else 0.0
        if self.now - self._sought_since >= limit_s:
            waited = f"; waited {self.policy.deadlines.words(limit)} (--wait SECONDS)"
            raise NoRoomError(f"{error}{waited if self.policy.may_grow else ''}", error.is_held)


def _limit_of_wait(error: NoRoomError) -> str:
    """The field of `Deadlines` that says how long a start waits for what is missing."""
    return "room_s" if error.is_held else "nodes_join_s"


@dataclass(frozen=True)
class Relocation:
    """One look at a recovery whose old workers have ended, `now`."""

    facts: RunFacts
    state: Recovering
    policy: RunPolicy
    now: float

    def next_actions(self) -> tuple[Action, ...]:
        """What the loss of agents makes necessary; nothing where the recovery takes its course.

        Raises the error that ends the run, also when nodes were sought for too long.
        """
        stage, error = self.state.stage, self.facts.error
        if error is not None:
            return self.answer(error)
        if stage is Stage.NODES:
            return self._look()
        if stage is Stage.ROOM:
            waited_s = self.now - self.state.since
            return self.seek() if waited_s >= self.policy.deadlines.node_poll_s else ()
        return self.seek() if self.facts.agents.lost else ()

    def grow(self) -> tuple[Action, ...]:
        """Give agents that stand by the workers that the run has to do without. Nothing has
        failed."""
        new = tuple(spec.name for spec in self._reserve.grown())
        following = replace(self.state, stage=Stage.JOIN, since=self.now, restarted=new)
        return (*(self._reserve.grow() if new else ()), Enter(following))

    def seek(self) -> tuple[Action, ...]:
        """Give the places of lost agents to those that stand by. Where none does, end what is left
        of the lost ones, and of those that have yet to join: what these hold would be missed. Then
        look which nodes there are."""
        taken = self._by_reserve()
        if taken:
            return taken
        agents = self.facts.agents
        starting = [h.spec.name for h in agents.serving if h.facts is None and h.lost is None]
        ended = (*[handle.spec.name for handle in agents.lost], *starting)
        since = self.now if self._is_new_search else self._search.since
        search = replace(self._search, since=since, unfit=self._unfit_nodes())
        following = self._at(Stage.NODES, search, self._going_on)
        again = [LoseAgent(name, "it is laid out anew with the others") for name in starting]
        return *self._tries(), *again, Enter(following), SeekNodes(ended, self.policy.kinds)

    @property
    def _reserve(self) -> Reserve:
        return Reserve(self.facts, self.policy, self.now)

    def _by_reserve(self) -> tuple[Action, ...]:
        """On with the agents that stand by, no node is asked for; or, where they were all that was
        new and nothing else had failed, without those of them that are lost."""
        lost = self.facts.agents.lost
        if self.state.diagnosis is None and all(h.spec.name in self.state.restarted for h in lost):
            why = "; ".join(str(handle.lost).splitlines()[0] for handle in lost)
            return self._shrink(why)
        taken = self._reserve.take_places()
        if not taken:
            return ()
        new = [event.agent for event in _events(taken) if isinstance(event, events.SpareTook)]
        names = (*self._going_on, *new)
        following = replace(self.state, stage=Stage.JOIN, since=self.now, restarted=names)
        return *taken, Enter(following)

    def _shrink(self, why: str) -> tuple[Action, ...]:
        names = self._going_on
        following = replace(self.state, stage=Stage.READY, since=self.now, restarted=names)
        return *self._reserve.shrink(why), Enter(following)

    def _tries(self) -> tuple[Record, ...]:
        """What is told of nodes on which an agent could not be started."""
        if self.state.stage not in _ON_NODES:
            return ()
        lost = [h for h in self.facts.agents.lost if h.spec.name in self.state.restarted]
        texts = [f"{str(handle.lost).splitlines()[0]}; looks for a node anew" for handle in lost]
        return tuple(warning(self.facts, text) for text in texts)

    @property
    def _is_new_search(self) -> bool:
        """Whether those who were sought had been found, or others are missed now: however long a
        checkpoint is looked at, a node that is lost then may take its time to come back."""
        stage, restarted = self.state.stage, self.state.restarted
        if stage in (Stage.NODES, Stage.ROOM):
            return False
        lost = [handle.spec.name for handle in self.facts.agents.lost]
        return stage is Stage.CHECKPOINT or any(name not in restarted for name in lost)

    @property
    def _search(self) -> Search:
        return self.state.search or Search(self.now)

    @property
    def _going_on(self) -> tuple[str, ...]:
        """Those that were started anew and live: they have yet to be looked at like the next
        ones."""
        living = {handle.spec.name for handle in self.facts.agents.living}
        return tuple(name for name in self.state.restarted if name in living)

    def _at(self, stage: Stage, search: Search, restarted: tuple[str, ...]) -> Recovering:
        return replace(self.state, stage=stage, since=self.now, search=search, restarted=restarted)

    # What goes wrong on the way

    def answer(self, error: DougongError) -> tuple[Action, ...]:
        """What follows from an error that another node, or time, may mend; raises any other."""
        stage, new = self.state.stage, self.state.restarted
        # A record that cannot be written, and a checkpoint that is not valid, are no node's fault.
        if stage is Stage.CHECKPOINT or isinstance(error, StorageError | CheckpointError):
            raise error
        if stage in _ON_NODES:
            return GoOn(), *[LoseAgent(name, str(error)) for name in new]
        placeless = [name for name in new if name not in self._going_on]
        lost = [LoseAgent(name, "it found no place") for name in placeless]
        return GoOn(), *lost, *self._wait(str(error))

    def _unfit_nodes(self) -> dict[str, Unfit]:
        """The nodes on which an agent could not be started, with those that are so by now.

        Such a node may be tried again after a while, each time a longer one: what is wrong with it
        (storage that is not mounted yet after its start) may be mended meanwhile.
        """
        unfit = dict(self._search.unfit)
        if self.state.stage not in _ON_NODES:
            return unfit
        for handle in self.facts.agents.lost:
            node = handle.spec.node
            if handle.spec.name not in self.state.restarted or node is None:
                continue
            pause_s = self.policy.deadlines.node_retry_s
            if node in unfit:
                pause_s = 2 * unfit[node].pause_s
            why = str(handle.lost).splitlines()[0]
            unfit[node] = Unfit(why, self.now + pause_s, pause_s)
        return unfit

    # Nodes

    def _look(self) -> tuple[Action, ...]:
        """Lay the agents out on the nodes that there are, when these are known."""
        deadlines, nodes = self.policy.deadlines, self.facts.nodes
        if nodes is None:
            is_late = self.now - self.state.since > deadlines.backend_open_s
            waited = deadlines.words("backend_open_s")
            return self._wait(f"the nodes are not known after {waited}") if is_late else ()
        agents = self.facts.agents
        standing = [handle for handle in agents.standing if handle not in agents.living]
        kept = tuple(handle.spec for handle in (*agents.living, *standing))
        usable = self.facts.devices.usable(nodes)
        fit = [node for node in usable if not self._is_left_alone(node)]
        job = self.policy.job
        try:
            layout = lay_out(job.islands, fit, self.policy.shared_devices, kept)
            check_ports(read_ports(job.ports), layout, fit, self.facts.host or "")
        except LaunchError as error:
            self._refuse_without_devices(error)
            return self._wait(str(error))
        return self._start(layout, kept)

    def _refuse_without_devices(self, error: LaunchError) -> None:
        """Raises the error where time alone brings no device back: those of the only machine are in
        quarantine."""
        is_alone = not self.policy.may_grow and isinstance(error, NoRoomError)
        if is_alone and self.facts.devices.quarantine.all:
            raise error

    def _is_left_alone(self, node: Node) -> bool:
        unfit = self._search.unfit.get(node.id)
        return unfit is not None and self.now < unfit.until

    def _start(
        self, layout: tuple[AgentSpec, ...], kept: Sequence[AgentSpec]
    ) -> tuple[Action, ...]:
        new = tuple(spec for spec in layout if spec not in kept)
        names = (*self._going_on, *[spec.name for spec in new])
        told = self._reserve.decided(at_places(self._places(new)))
        return *told, Enter(self._at(Stage.PLACES, self._search, names)), StartAgents(new, layout)

    def _places(self, new: Sequence[AgentSpec]) -> Places:
        """The machines that are chosen, and whether each of their workers was there before: also on
        one that has been started anew, which is listed by another id."""
        listed = {node.id: node for node in self.facts.nodes or ()}
        # By worker, since an agent has another name when it has other devices of its island.
        before: dict[str, AgentHandle] = {}
        for handle in self.facts.agents.all:
            before.update(dict.fromkeys(handle.spec.workers, handle))
        names, is_theirs = [], True
        for spec in new:
            node = listed.get(spec.node or "")
            names.append("its node" if node is None else node.name)
            were_there = [self._was_on(before.get(name), spec, node) for name in spec.workers]
            is_theirs = is_theirs and all(were_there)
        return Places("", worker_list(names), is_theirs)

    def _was_on(self, handle: AgentHandle | None, spec: AgentSpec, node: Node | None) -> bool:
        if handle is None:
            return False
        is_same_name = node is not None and self.facts.host_of(handle) == node.name
        return is_same_name or spec.node == handle.spec.node

    def _wait(self, reason: str) -> tuple[Action, ...]:
        """Say what is missing, where that is news, and look again in a moment.

        Raises LaunchError when that has gone on for `node_return_s`.
        """
        search, limit = self._search, self.policy.deadlines.words("node_return_s")
        text = f"a node for {worker_list(self._missing)}: {reason}{self._words_on_unfit()}"
        choice = self._without_place()
        if choice.action == "shrink":
            return self._shrink(f"{choice.reason}, and nothing is there for its agent ({reason})")
        if choice.action == "stop":
            waited = f"the controller waited {limit} for " if self._is_late else ""
            raise LaunchError(f"{waited}{text}{choice.reason and '; '}{choice.reason}")
        text += f"; waits {limit} at most"
        if self.policy.job.fault.without_spare == "shrink":
            text += f", since {choice.reason}"
        enter = Enter(self._at(Stage.ROOM, search, self._going_on))
        if text == self.facts.awaited:
            return (enter,)
        return Record(events.Waiting(generation=self.facts.number, text=text)), enter

    def _without_place(self) -> WithoutPlace:
        is_late = self._is_late or self._is_in_vain
        return without_place(self.policy.job.fault, self._reserve.cannot_shrink, is_late)

    @property
    def _is_late(self) -> bool:
        """Whether a node has been awaited for as long as may be."""
        return self.now - self._search.since > self.policy.deadlines.node_return_s

    @property
    def _is_in_vain(self) -> bool:
        """Whether there is one machine, which nobody can join, and an agent has failed there again
        after a while."""
        retry_s = self.policy.deadlines.node_retry_s
        again = any(entry.pause_s > retry_s for entry in self._search.unfit.values())
        return again and not self.policy.may_grow

    @property
    def _missing(self) -> list[str]:
        """Workers without a living agent."""
        missing: list[str] = []
        living = self.facts.agents.living
        for handle in self.facts.agents.all:
            if handle not in living:
                missing += handle.spec.workers
        return missing

    def _words_on_unfit(self) -> str:
        unfit = self._search.unfit.values()
        tried = [entry.why for entry in unfit if self.now < entry.until]
        return f"; tried in vain, and again later: {'; '.join(tried)}" if tried else ""


def _events(actions: Iterable[Action]) -> Iterator[events.RunEvent]:
    for action in actions:
        if isinstance(action, Record):
            yield action.event
