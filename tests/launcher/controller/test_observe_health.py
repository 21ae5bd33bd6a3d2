"""From heartbeats over time to suspicions, and to a worker that is given up."""

from __future__ import annotations

from dougong.control.messages import Heartbeat
from dougong.control.progress import WorkerProgress, WorkerSigns
from dougong.launcher.controller.observe_health import health_words
from tests.launcher.controller.machine import ALL, Machine, Passes, Says, Step, agent_of, running, step

STOPPED = WorkerSigns("T", 0.0, 0.0, 0.0)


def beat(name: str, sequence: int, awaited: int = 0, signs: WorkerSigns | None = None) -> Says:
    progress = {name: WorkerProgress(sequence, 9, "forward", 0, sequence, awaited)}
    return Says(agent_of(name), Heartbeat(1, sequence, progress, {name: signs or WorkerSigns("R")}))


def warm() -> Machine:
    """Some steps in which all went well."""
    made = running()
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
    assert (str(made.event("suspect").culprit), made.event("suspect").why) == ("west/0", "stopped")
    assert health_words(made.facts, made.now)["east/0"] == "waits for west/0"
    made.play(stops("west/0", 3.1))
    diagnosis = made.event("diagnosis")
    assert (str(diagnosis.culprit), diagnosis.failure, diagnosis.latency_s) == ("west/0", "hang", 3.1)
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
