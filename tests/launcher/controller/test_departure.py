"""A broken generation: who leaves it, who is killed, when the next one may begin."""

from __future__ import annotations

from dougong.control.messages import WorkerForked
from dougong.control.worker_messages import StateFetched, WorkerLeft, WorkerRaised
from dougong.errors import CheckpointError
from dougong.launcher.controller.actions import EndGeneration, ForkGeneration
from dougong.launcher.controller.inbound.items import FoundCheckpoint, SignalReceived
from dougong.launcher.controller.states import Recovering, Running, Stage
from tests.launcher.controller.machine import (
    START,
    Leaves,
    Machine,
    Passes,
    Says,
    Step,
    agent_of,
    committed,
    exits,
    found,
    killed,
    machine,
    part,
    running,
    step,
    with_deadlines,
    worker,
)

ALL = ("east/0", "east/1", "west/0")


def left(*names: str, held: int = 0, generation: int = 1) -> list[Step]:
    """These workers have left their generation, and hold that step in memory."""
    return [worker(name, WorkerLeft(held), generation) for name in names]


def there(generation: int, **pids: int) -> list[Step]:
    """The processes of these workers (`east_0=7`) are in the generation."""
    steps: list[Step] = []
    for key, pid in pids.items():
        name = key.replace("_", "/")
        steps.append(Says(agent_of(name), WorkerForked(generation, name, pid)))
    return steps


def last(made: Machine, kind: type) -> object:
    return [action for action in made.actions if isinstance(action, kind)][-1]


PIDS = {"east_0": 10, "east_1": 11, "west_0": 12}
TRAINS = [*there(1, **PIDS), step(7)]


def test_those_who_did_not_fail_leave_and_the_next_generation_begins_without_a_search() -> None:
    made = running().play(TRAINS, [part(name, 5) for name in ALL], committed(5)).clear()
    made.play(exits("east/1", -9))
    ended = last(made, EndGeneration)
    assert isinstance(ended, EndGeneration) and ended.leaving == ("east/0", "west/0")
    made.play(left("east/0", held=7))
    assert isinstance(made.state, Recovering) and made.state.stage is Stage.WORKERS_END
    made.play(left("west/0", held=7))
    assert made.state == Running(2) and "FindCheckpoint" not in made.names()
    fork = last(made, ForkGeneration)
    assert isinstance(fork, ForkGeneration) and (fork.step, fork.in_memory) == (7, True)
    assert fork.resume is not None and fork.resume.name == "step-000005"
    # Its survivors' processes are shown as they were.
    assert made.facts.generation is not None
    described = {name: status.describe() for name, status in made.facts.generation.workers.items()}
    assert [(s.pid, s.alive) for s in described.values()] == [(10, True), (None, False), (12, True)]
    made.play(there(2, east_0=10, east_1=99, west_0=12))
    made.play([worker(name, StateFetched(7, {"own": 4, "peer": 2}, 0.1), 2) for name in ALL], step(8, 2))
    restored, over = made.event("state_restored"), made.event("recovered")
    assert (restored.step, restored.tiers) == (7, {"own": 12, "peer": 6})
    assert (over.failed, over.kept, over.forked, over.step) == (1, ("east/0", "west/0"), ("east/1",), 7)
    assert over.formed_s is not None and over.fetched_s is not None and over.tiers == restored.tiers


def test_without_a_state_in_memory_a_valid_checkpoint_is_sought() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), left("east/0", "west/0"))
    assert made.names()[-1] == "FindCheckpoint"
    made.play(found(5))
    fork = last(made, ForkGeneration)
    assert isinstance(fork, ForkGeneration) and (fork.step, fork.in_memory) == (5, False)


def test_a_worker_that_has_only_lost_a_peer_stays() -> None:
    made = running().play(TRAINS).clear()
    made.play(worker("east/0", WorkerRaised("PeerError", ("PeerError",), "x", stays=True)), exits("east/1", -9))
    ended = last(made, EndGeneration)
    assert isinstance(ended, EndGeneration) and ended.leaving == ("east/0", "west/0")


def test_who_does_not_leave_in_time_is_killed_and_forked_anew() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), left("east/0", held=7), Passes(10.1))
    assert made.names()[-1] == "KillLate 1" and isinstance(made.state, Recovering)
    made.play(exits("west/0", -9, asked=True))
    assert made.state == Running(2) and "survivor_lost" not in made.kinds()
    assert made.facts.generation is not None and made.facts.generation.workers["west/0"].pid is None


def test_a_survivor_that_dies_while_it_leaves_is_lost_too() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), exits("east/0", -11), left("west/0", held=7))
    assert made.state == Running(2)
    assert made.event("survivor_lost").worker == "east/0"
    assert made.kinds().count("worker_died") == 1
    made.play(there(2, east_0=20, east_1=21, west_0=12), step(8, 2))
    assert made.event("recovered").kept == ("west/0",)


def test_agents_that_are_lost_at_once_are_all_named() -> None:
    for steps in ([Leaves("west"), Leaves("east")], [Passes(12.0, silent=("east",)), Leaves("west")]):
        made = running().play(TRAINS).clear().play(steps, Passes(1.0, silent=("east",)))
        named = {made.event("diagnosis").culprit.name, made.event("survivor_lost").agent}
        assert named == {"east", "west"}


def test_a_worker_that_dies_while_the_generation_forms_begins_it_again() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), left("east/0", "west/0", held=7))
    made.play(there(2, east_0=10), exits("west/0", -9, 2))
    assert isinstance(made.state, Recovering)
    made.play(left("east/0", "east/1", held=7, generation=2))
    assert made.state == Running(3)
    made.play(there(3, east_0=10, east_1=21, west_0=30), step(8, 3))
    over = [event for event in made.events if event.kind == "recovered"]
    assert [event.failed for event in over] == [1, 2]


def test_a_fork_that_fails_begins_the_generation_again() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), left("east/0", "west/0", held=7))
    made.play(exits("east/1", 1, 2, text="the system cannot fork"))
    made.play(left("east/0", "west/0", held=7, generation=2))
    assert made.state == Running(3)


def test_a_checkpoint_that_could_not_be_read_is_answered_with_a_search() -> None:
    """Memory does not hold a part, and the newest checkpoint, which no search has read, is damaged."""
    made = running().play(TRAINS, [part(name, 5) for name in ALL], committed(5)).clear()
    made.play(exits("east/1", -9), left("east/0", "west/0", held=7))
    torn = WorkerRaised("CheckpointError", ("CheckpointError", "DougongError"), "torn")
    made.play(worker("east/1", torn, 2), exits("east/1", 1, 2), left("east/0", "west/0", held=7, generation=2))
    assert made.names()[-1] == "FindCheckpoint"


def test_steps_that_memory_does_not_hold_are_compared_with_what_was_recorded() -> None:
    made = running().play(there(1, **PIDS), step(6, ledger="aa"), step(7, ledger="bb")).clear()
    made.play(exits("east/1", -9), left("east/0", "west/0", held=7))
    made.play([worker(name, StateFetched(6, {}, 0.1), 2) for name in ALL])
    assert made.facts.step == 6
    made.play(step(7, 2, "bb"))
    assert made.event("steps_recomputed").first == 7
    made.play(step(8, 2, "cc"), exits("east/1", -9, 2), left("east/0", "west/0", held=7, generation=2))
    made.play(step(8, 3, "xx"))
    assert made.states[-1] == "FAILED" and "other bits" in str(made.outcome.error)


def test_a_part_that_a_survivor_saved_for_the_old_generation_is_of_no_checkpoint() -> None:
    made = running().play(TRAINS).clear().play(exits("east/1", -9), left("east/0", "west/0", held=7))
    late = part("east/0", 5, 2)
    late.message.message.part["generation"] = 1  # type: ignore[union-attr]
    made.play(late)
    assert "checkpoint_started" not in made.kinds()


def test_a_run_that_does_not_recover_kills_everybody() -> None:
    made = running(fault={"max_restarts": 0}).play(TRAINS).clear().play(exits("east/1", -9))
    ended = last(made, EndGeneration)
    assert isinstance(ended, EndGeneration) and ended.leaving == ()


GIVES_NONE = CheckpointError("/run/checkpoints: Input/output error; mend the storage, then go on")
AWAY = FoundCheckpoint(None, refusal=GIVES_NONE, is_away=True)
DIES: list[Step] = [exits("east/1", -9), *killed("east/0", "west/0")]


def searches(made: Machine) -> int:
    return made.names().count("FindCheckpoint")


def test_a_recovery_waits_for_storage_that_gives_no_checkpoint_now() -> None:
    """Each pause is twice as long, it is told once, and what is found then is gone on from."""
    made = machine().play(START).clear().play(DIES, AWAY)
    assert isinstance(made.state, Recovering) and searches(made) == 1
    text = made.event("waiting").text
    assert text.startswith("storage, for a checkpoint to go on from: /run/checkpoints: Input/output error")
    assert text.endswith("; tries again, 600 s (fault.deadlines.storage_wait_s) at most")
    assert made.facts.awaited == text
    for pause_s, number in ((2.0, 2), (4.0, 3)):
        made.play(Passes(pause_s - 0.5))
        assert searches(made) == number - 1
        made.play(Passes(0.5), AWAY)
        assert searches(made) == number
    assert made.kinds().count("waiting") == 1
    made.play(Passes(8.0), found(5))
    assert made.state == Running(2) and made.facts.awaited == "" and made.facts.checkpoints.away is None


def test_storage_that_stays_away_ends_a_recovery_in_time_and_a_start_at_once() -> None:
    made = with_deadlines(machine(), storage_wait_s=5.0).play(START).clear().play(DIES, AWAY)
    for _ in range(12):
        made.play(Passes(0.5))
        if made.names()[-1] == "FindCheckpoint":
            made.play(AWAY)
    assert made.outcome.state == "FAILED"
    assert str(made.outcome.error) == f"{GIVES_NONE}; the controller waited 5 s (fault.deadlines.storage_wait_s)"
    assert machine().play(START[:-1], AWAY).outcome.error is GIVES_NONE


def test_a_stop_ends_the_wait_for_storage() -> None:
    made = machine().play(START, DIES, AWAY, SignalReceived(15))
    assert made.outcome.state == "STOPPED"
