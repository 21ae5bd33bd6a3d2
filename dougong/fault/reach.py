"""Agents that do not answer, machines that are gone, and cuts between machines that live. Pure.

Three things tell them apart. The agent's heartbeat: whether the process answers. A connection to
its machine, which the kernel takes even where the process is stopped. And what the machines hear of
each other, in each direction: a machine that nobody hears and that takes no connection is gone, or
cut off from everybody, which is the same for all who are left; one that others hear is cut off from
some alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dougong.control.path_messages import CONTROLLER, Hearing
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.culprit import Culprit
from dougong.fault.suspicion import Sign, Suspicion


@dataclass(frozen=True)
class AgentView:
    """What is known of one living agent. `machine`: its name; `silent_s`: for so long it has not
    been heard by the controller; `answers`: whether its machine takes connections, None: not known
    yet."""

    name: str
    machine: str
    silent_s: float = 0.0
    answers: bool | None = None

    @property
    def is_silent(self) -> bool:
        return self.silent_s > DEADLINES.agent_mute_s


@dataclass(frozen=True)
class Reach:
    """One look at all agents. `hearings`: what each of them, or the controller (`CONTROLLER`), has
    said lately that it hears; `here`: the controller's machine; `still_s`: for so long no worker
    that is seen has moved; None: none is seen, since the agents of all are silent."""

    agents: Sequence[AgentView]
    hearings: Mapping[str, Hearing]
    here: str
    still_s: float | None
    deadlines: Deadlines

    def suspicions(self) -> tuple[Suspicion, ...]:
        """What is suspected of agents, nodes and links, at most one of each."""
        found: dict[Culprit, Suspicion] = {}
        for agent in self.agents:
            if agent.is_silent and (
                agent.answers is not None or agent.silent_s > DEADLINES.machine_tried_s
            ):
                one = self._of_silent(agent)
                found.setdefault(one.culprit, one)
        for one in self._of_pairs():
            found.setdefault(one.culprit, one)
        return tuple(found.values())

    # Agents that the controller does not hear

    def _of_silent(self, agent: AgentView) -> Suspicion:
        if agent.answers:
            return self._silent(agent, Culprit("agent", agent.name), Sign.AGENT, "does not answer")
        deaf_to, hearers = self._deaf_to(agent.name), self._hearers(agent)
        link = Culprit("link", f"{self.here} - {agent.machine}")
        if deaf_to:
            why = f"what is sent to {agent.machine} is lost, what it sends arrives"
            return self._silent(agent, link, Sign.LINK, why)
        if hearers:
            why = f"{agent.machine} and {self.here} do not reach each other"
            return self._silent(agent, link, Sign.LINK, why)
        beside = [other for other in self.agents if other.machine == agent.machine]
        if not all(other.is_silent for other in beside):
            return self._silent(agent, Culprit("agent", agent.name), Sign.AGENT, "does not answer")
        why = "nothing comes from it, and nothing reaches it"
        return self._silent(agent, Culprit("node", agent.machine), Sign.NODE, why)

    def _silent(self, agent: AgentView, culprit: Culprit, sign: Sign, why: str) -> Suspicion:
        given_up = [agent.name]
        if culprit.kind != "agent":
            silent = [other for other in self.agents if other.is_silent]
            given_up = [other.name for other in silent if other.machine == agent.machine]
        facts = [f"no heartbeat of agent {agent.name} for {agent.silent_s:.1f} s"]
        if agent.answers is not None:
            takes = "takes connections" if agent.answers else "takes no connection"
            facts.append(f"its machine {takes}")
        facts += self._heard_words(agent)
        name, limit_s = "agent_silence_s", self.deadlines.agent_silence_s
        if self._is_held_up_by(agent):
            name, limit_s = "hang_s", self.deadlines.hang_s
        return Suspicion(
            culprit,
            sign,
            why,
            agent.silent_s,
            limit_s,
            self.deadlines.words(name),
            tuple(facts),
            tuple(given_up),
        )

    def _is_held_up_by(self, agent: AgentView) -> bool:
        """Whether nobody trains, as far as can be seen. As long as the others train with its
        workers, a mute agent holds nobody up."""
        if self.still_s is None:
            # A machine that takes connections is there. Where none does it is the way to all of
            # them that may be cut, and they may train on.
            return bool(agent.answers)
        return self.still_s > self.deadlines.hang_s - DEADLINES.machine_tried_s

    def _deaf_to(self, name: str) -> tuple[str, ...]:
        """Whom an agent does not hear, as others have heard it say."""
        for hearing in self.hearings.values():
            if name in hearing.told:
                return hearing.told[name]
        return ()

    def _hearers(self, agent: AgentView) -> tuple[str, ...]:
        """Agents of other machines, heard by the controller, that hear this one."""
        hearers = []
        for other in self.agents:
            hearing = self.hearings.get(other.name)
            if other.is_silent or other.machine == agent.machine or hearing is None:
                continue
            if agent.name in hearing.heard:
                hearers.append(other.name)
        return tuple(hearers)

    def _heard_words(self, agent: AgentView) -> list[str]:
        words = []
        for listener, hearing in self.hearings.items():
            if agent.name in hearing.lost:
                lost_s = hearing.lost[agent.name]
                words.append(f"{_named(listener)} has not heard it for {lost_s:.1f} s")
        deaf_to = self._deaf_to(agent.name)
        if deaf_to:
            words.append(f"it says itself that it does not hear {', '.join(map(_named, deaf_to))}")
        return words

    # Agents that the controller hears, and that do not hear each other

    def _of_pairs(self) -> list[Suspicion]:
        heard = {agent.name: agent for agent in self.agents if not agent.is_silent}
        lost_s: dict[tuple[str, str], float] = {}  # by (who speaks, who does not hear it)
        for listener, hearing in self.hearings.items():
            for speaker, seconds in hearing.lost.items():
                if listener in heard and speaker in heard:
                    way = heard[speaker].machine, heard[listener].machine
                    lost_s[way] = max(seconds, lost_s.get(way, 0.0))
        found = []
        for speaker, listener in lost_s:
            back = (listener, speaker)
            if back not in lost_s or speaker < listener:
                found.append(self._cut(speaker, listener, lost_s))
        return found

    def _cut(
        self, speaker: str, listener: str, lost_s: Mapping[tuple[str, str], float]
    ) -> Suspicion:
        """A way between two machines, or both ways."""
        is_both = (listener, speaker) in lost_s
        why = f"what {speaker} sends does not reach {listener}"
        if is_both:
            why = f"{speaker} and {listener} do not reach each other"
        given_up = self._smaller_side(speaker, listener, lost_s)
        names = [agent.name for agent in self.agents if agent.machine == given_up]
        seconds = lost_s[speaker, listener]
        facts = [f"{listener} has not heard {speaker} for {seconds:.1f} s"]
        if is_both:
            facts.append(f"{speaker} has not heard {listener}")
        facts.append(f"the controller hears both; given up is {given_up}")
        # Whoever trains all the same has other ways; short messages alone may be held back.
        since_s = min(seconds, self.still_s or 0.0)
        culprit = Culprit("link", " - ".join(sorted((speaker, listener))))
        words = self.deadlines.words("hang_s")
        return Suspicion(
            culprit,
            Sign.LINK,
            why,
            since_s,
            self.deadlines.hang_s,
            f"{words} without a step",
            tuple(facts),
            tuple(names),
        )

    def _smaller_side(self, one: str, other: str, lost_s: Mapping[tuple[str, str], float]) -> str:
        """The machine that is cut off from more of the others; of equal ones that with fewer
        agents, never the controller's."""

        def rank(machine: str) -> tuple[bool, int, int, str]:
            cut_off = sum(machine in way for way in lost_s)
            num_agents = sum(agent.machine == machine for agent in self.agents)
            return machine != self.here, cut_off, -num_agents, machine

        return max(one, other, key=rank)


def _named(name: str) -> str:
    return name if name == CONTROLLER else f"agent {name}"
