"""From heartbeats over time to suspicions, and to a worker that is given up."""

from __future__ import annotations

import time

import pytest
from dougong.control.messages import ForkServerReplaced, Heartbeat
from dougong.control.path_messages import CONTROLLER, Hearing
from dougong.control.progress import ForkServerSigns, WorkerProgress, WorkerSigns
from dougong.launcher.controller.inbound.items import MachineTried
from dougong.launcher.controller.observe_health import health_words, suspect_words
from tests.launcher.controller.machine import ALL, START, Machine, Passes, Says, Step, agent_of, machine, step

STOPPED = WorkerSigns("T", 0.0, 0.0, 0.0)


def beat(
    name: str, sequence: int, awaited: int = 0, signs: WorkerSigns | None = None, hearing: Hearing | None = None
) -> Says:
    progress = {name: WorkerProgress(sequence, 9, "forward", 0, sequence, awaited)}
    heartbeat = Heartbeat(1, sequence, progress, {name: signs or WorkerSigns("R")}, hearing or Hearing())
    return Says(agent_of(name), heartbeat)


def warm() -> Machine:
    """Some steps in which all went well; west is on a machine of its own."""
    made = machine()
    made.nodes = {"west": "there"}
    made.play(START)
    for number in range(1, 6):
        made.play([beat(name, number) for name in ALL], Passes(0.1), step(number))
    return made.clear()


def stops(name: str, seconds: float) -> list[Step]:
    """For so long by now; the others wait for it."""
    rank = ALL.index(name)
    signs = WorkerSigns("T", seconds, seconds, seconds)
    others = [beat(other, 6, 1 << rank, WorkerSigns("S", seconds, seconds)) for other in ALL if other != name]
    return [beat(name, 6, 0, signs), *others, Passes(0.1)]


def test_a_stopped_worker_is_suspected_at_once_and_given_up_after_hang_s() -> None:
    made = warm().play(stops("west/0", 0.3), stops("west/0", 2.9))
    assert made.kinds() == ["suspect"]
    assert (str(made.event("suspect").culprit), made.event("suspect").why) == ("west/0 on there", "stopped")
    assert health_words(made.facts, made.now)["east/0"] == "waits for west/0"
    made.play(stops("west/0", 3.1))
    diagnosis = made.event("diagnosis")
    assert (str(diagnosis.culprit), diagnosis.failure, diagnosis.latency_s) == ("west/0 on there", "hang", 3.1)
    assert "east/0, east/1 wait for it" in diagnosis.evidence
    assert made.states[-1] == "RECOVERING"


def test_a_pause_is_taken_back() -> None:
    made = warm().play(stops("west/0", 1.4), [beat(name, 7) for name in ALL], Passes(0.1))
    assert made.kinds() == ["suspect", "suspect_cleared"]
    assert made.states == []


def test_what_nobody_has_told_lately_is_not_judged() -> None:
    """A controller that was held up finds all that it knows old: it waits for the next heartbeats."""
    made = warm().play(stops("west/0", 0.0), Passes(300.0))
    assert "suspect" not in made.kinds() and "diagnosis" not in made.kinds()
    assert health_words(made.facts, made.now)["west/0"] == "not seen: its agent is not heard"


MISSES_WEST = Hearing((CONTROLLER,), {"west": 1.0})


def goes_silent(made: Machine, answers: bool, hearing: Hearing) -> Machine:
    """West says nothing more; its machine is tried, and the workers of east stand still. `hearing`: of east."""
    made.play(Passes(0.5, silent=("west",)), MachineTried("west", answers))
    for tick in range(1, 11):
        signs = WorkerSigns("S", 0.5 + 0.3 * tick, 0.5 + 0.3 * tick)
        awaited = 1 << ALL.index("west/0")
        made.play([beat(name, 6, awaited, signs, hearing) for name in ("east/0", "east/1")])
        made.play(Passes(0.3, silent=("west",)))
    return made


def test_a_stopped_agent_is_suspected_in_a_second_and_lost_when_the_others_stand_still() -> None:
    made = goes_silent(warm(), True, MISSES_WEST)
    assert made.tried[0] == "west"
    suspect = next(event for event in made.events if event.kind == "suspect")
    assert (str(suspect.culprit), suspect.since_s < 1.0) == ("agent west on there", True)
    diagnosis = made.event("diagnosis")
    assert (str(diagnosis.culprit), diagnosis.failure) == ("agent west on there", "hang")
    assert diagnosis.latency_s is not None and 3.0 < diagnosis.latency_s < 3.6


def test_where_no_worker_is_seen_a_stopped_agent_is_given_up_as_early() -> None:
    """As where there is one agent: those whose machine takes no connection may be cut off, and train on."""
    made = warm().play(Passes(0.5, silent=("east", "west")), MachineTried("west", True), MachineTried("east", False))
    made.play(Passes(2.4, silent=("east", "west")))
    assert made.states == []
    made.play(Passes(1.0, silent=("east", "west")))
    diagnosis = made.event("diagnosis")
    assert (str(diagnosis.culprit), diagnosis.failure) == ("agent west on there", "hang")
    assert "fault.deadlines.hang_s" in diagnosis.cause
    assert made.facts.agents["east"].lost is None


def test_a_machine_that_takes_no_connection_and_is_not_heard_is_gone() -> None:
    made = goes_silent(warm(), False, MISSES_WEST)
    diagnosis = made.event("diagnosis")
    assert (diagnosis.culprit.kind, diagnosis.failure) == ("node", "node_lost")


def test_a_machine_that_says_itself_that_it_hears_nobody_is_cut_off_in_one_direction() -> None:
    hears_its_words = Hearing((CONTROLLER, "west"), {}, {"west": ("east", CONTROLLER)})
    made = goes_silent(warm(), False, hears_its_words)
    diagnosis = made.event("diagnosis")
    assert (diagnosis.culprit.kind, diagnosis.failure) == ("link", "partition")
    assert "is lost, what it sends arrives" in diagnosis.cause


def test_a_pause_of_an_agent_is_taken_back() -> None:
    made = warm().play(Passes(0.6, silent=("west",)), MachineTried("west", True), Passes(0.9, silent=("west",)))
    made.play(Passes(0.5))
    assert made.kinds() == ["suspect", "suspect_cleared"]
    assert made.states == []


def holds_up_nobody(sequence: int, server: ForkServerSigns) -> Says:
    """A heartbeat of west, whose workers train on."""
    progress = {"west/0": WorkerProgress(sequence, 9, "forward", 0, sequence)}
    return Says("west", Heartbeat(1, sequence, progress, {"west/0": WorkerSigns("R")}, fork_server=server))


def test_a_stopped_fork_server_is_suspected_and_taken_back_when_it_goes_on() -> None:
    made = warm().play(holds_up_nobody(6, ForkServerSigns("was stopped", 0.2, "T")), Passes(0.1))
    suspect = made.event("suspect")
    assert (str(suspect.culprit), suspect.why) == ("fork server of agent west on there", "stopped")
    assert suspect.evidence == ("process state T for 0.2 s",) and "fault.deadlines.hang_s" in suspect.limit
    assert suspect_words(made.facts) == ("fork server of agent west on there: stopped for 0.2 s",)
    assert health_words(made.facts, made.now)["west/0"] == "running"
    made.play(holds_up_nobody(7, ForkServerSigns("was stopped", 9.9, "T")), Passes(0.1))
    assert made.kinds() == ["suspect"] and made.states == [], "its agent acts on it"
    made.play(holds_up_nobody(8, ForkServerSigns()), Passes(0.1))
    assert made.kinds() == ["suspect", "suspect_cleared"]


def test_a_fork_server_that_is_given_up_is_named_with_what_was_seen_and_nothing_is_done() -> None:
    hung = ForkServerSigns("was stopped", 3.04, "T")
    made = warm().play(holds_up_nobody(6, ForkServerSigns("was stopped", 0.2, "T")), Passes(0.1))
    made.play(Says("west", ForkServerReplaced("fork server (pid 3) was stopped", 4, hung)), Passes(0.1))
    assert made.kinds() == ["suspect", "diagnosis", "decision"], "it does not go on"
    diagnosis, decision = made.event("diagnosis"), made.event("decision")
    assert (str(diagnosis.culprit), diagnosis.failure) == ("fork server of agent west on there", "hang")
    assert (diagnosis.evidence, diagnosis.latency_s) == (("process state T for 3.0 s",), 3.04)
    assert decision.action == "ignore" and made.states == []
    assert decision.reason.startswith("another one forks from now on")
    made.clear().play(Says("west", ForkServerReplaced("fork server (pid 4) was ended", 5, is_ready=False)))
    assert "no other one stood by: a new one imports" in made.event("decision").reason


def test_a_controller_that_was_stopped_judges_nobody_by_what_it_has_not_read() -> None:
    made = warm()
    made.now += 60.0  # stopped, and goes on; what the agents have said meanwhile is not read yet
    made.play(Passes(0.1, silent=("east", "west")))
    assert made.kinds() == [] and made.states == []
    made.play(Passes(0.5))
    assert made.kinds() == [] and made.states == []


def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time of the watch is a wall clock's."""
    made = warm()
    for jump in (-7200.0, 86400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
        made.play([beat(name, 6) for name in ALL], Passes(1.0))
    assert made.kinds() == [] and made.states == []
