"""An agent's workers, with a fork server that only takes down what it is asked for."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dougong.control.fork_messages import ForkRequest
from dougong.control.handshake import KeptWorker
from dougong.control.messages import (
    ForkWorkers,
    JoinGeneration,
    KillWorkers,
    LeaveGeneration,
    RestAfterStep,
    StopAfterStep,
    ToWorker,
    WorkerExited,
    WorkerForked,
)
from dougong.control.processes import process_exists
from dougong.control.tasks import InspectTask, TrainTask
from dougong.control.worker_messages import StoreReply
from dougong.deadlines import DEADLINES
from dougong.job.schema import Job
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.workers import KeptWorkers, WorkerPlaces, Workers
from dougong.parallel.plan import Inventory, Seat, make_plan
from dougong.records.directory import RunDir
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import toy_job

JOB = Job.model_validate(toy_job())
SEATS = [Seat(f"east/{i}", "east", "both", "n", f"cpu:{i}") for i in range(2)]
TRAIN = TrainTask("a:b", JOB, make_plan(4, Inventory("toy", (), (), 16, ()), SEATS), "/runs/toy", "east/0")
BOTH = ("east/0", "east/1")


class Asked:
    """A fork server that forks nobody: requests by number, and whom it was asked to kill."""

    def __init__(self) -> None:
        self.requests: list[ForkRequest] = []
        self.killed: list[int] = []

    def fork(self, request: ForkRequest, fds: Sequence[int]) -> None:
        self.requests.append(request)

    def kill(self, pid: int) -> None:
        self.killed.append(pid)


class Rig:
    """The workers of one agent, without processes."""

    def __init__(self, folder: Path) -> None:
        self.server, self.told, self.opened = Asked(), list[Any](), list[Child]()
        self.handed_over: list[Child] = []
        places = WorkerPlaces(RunDir(folder), StorageWriter("logs"), "10.0.0.2", DEADLINES)
        server: Any = self.server
        self.workers = Workers(server, places, self.told.append, self.opened.append, self.handed_over.append)

    def begin(self, generation: int, workers: tuple[str, ...] = BOTH) -> None:
        """Begin a generation; whoever is forked gets the process number 100 x generation + its place."""
        known = len(self.server.requests)
        self.workers.begin(ForkWorkers(generation, workers, TRAIN))
        for place, request in enumerate(self.server.requests[known:]):
            self.workers.note_forked(request.number, 100 * generation + place)

    def leave(self, *names: str) -> None:
        """What the agent takes down when these say that they have left."""
        for child in self.workers.all:
            if child.worker in names:
                child.has_left = True

    def of(self, worker: str) -> Child:
        return next(child for child in self.workers.all if child.worker == worker)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    for child in made.workers.all:
        child.close()


def hear(child: Child, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the worker is told from now on, in the place of its sending."""
    heard: list[Any] = []
    monkeypatch.setattr(child, "tell", heard.append)
    return heard


def test_a_generation_is_forked_and_every_process_is_told(rig: Rig) -> None:
    rig.begin(1)
    assert [(r.worker, r.generation, r.address) for r in rig.server.requests] == [
        ("east/0", 1, "10.0.0.2"),
        ("east/1", 1, "10.0.0.2"),
    ]
    assert rig.told == [WorkerForked(1, "east/0", 100), WorkerForked(1, "east/1", 101)]
    assert rig.opened == list(rig.workers.all)


def test_who_has_left_goes_over_to_the_next_and_only_the_lost_one_is_forked(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.begin(1)
    rig.workers.forget(rig.of("east/1"))
    rig.leave("east/0")
    kept = rig.of("east/0")
    heard = hear(kept, monkeypatch)
    rig.begin(2)
    assert [r.worker for r in rig.server.requests[2:]] == ["east/1"]
    assert heard == [JoinGeneration(2, TRAIN, "10.0.0.2")]
    assert rig.told[2:] == [WorkerForked(2, "east/0", 100), WorkerForked(2, "east/1", 200)]
    assert rig.handed_over == [kept]
    assert (kept.generation, kept.has_left, kept.forward_all) == (2, False, True)
    assert [child.worker for child in rig.workers.of(2)] == ["east/0", "east/1"]


def test_who_has_not_left_or_is_to_die_is_forked_anew(rig: Rig) -> None:
    rig.begin(1)
    rig.leave("east/1")
    rig.workers.command(KillWorkers(1, ("east/1",)))
    rig.begin(2)
    assert [r.worker for r in rig.server.requests[2:]] == ["east/0", "east/1"]
    assert rig.server.killed == [101]


def test_a_process_that_has_no_part_in_the_next_generation_is_ended(rig: Rig) -> None:
    rig.begin(1)
    rig.leave(*BOTH)
    rig.workers.begin(ForkWorkers(0, ("east/0",), InspectTask("a:b", JOB)))
    assert not rig.server.killed, "a look begins no generation"
    rig.begin(2, ("east/0",))
    assert rig.server.killed == [101]
    assert [r.generation for r in rig.server.requests] == [1, 1, 0]


@pytest.fixture
def left(rig: Rig) -> Iterator[list[Child]]:
    """Workers with processes, which have left generation 3 and hold step 7."""
    processes = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in BOTH]
    rig.begin(3)
    for child, process in zip(rig.workers.all, processes, strict=True):
        child.pid = process.pid
        child.note_left(7)
    yield list(rig.workers.part())
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("adopts_from", "variables", "go_on"),
    [(3, {"A": "1"}, True), (2, {"A": "1"}, True), (4, {"A": "1"}, False), (None, {"A": "1"}, False), (3, {}, False)],
)
def test_who_has_lost_his_controller_goes_on_where_the_next_one_wants_it_and_all_is_as_it_was(
    rig: Rig, left: list[Child], adopts_from: int | None, variables: dict[str, str], go_on: bool
) -> None:
    assert rig.workers.all == ()
    kept = KeptWorkers()
    kept.keep(left, {"A": "1"})
    pids = [child.pid for child in left]
    told = kept.describe(adopts_from)
    taken = kept.take(adopts_from, variables, DEADLINES)
    assert [child.worker for child in taken] == (list(BOTH) if go_on else [])
    assert [pid is not None and process_exists(pid) for pid in pids] == [go_on, go_on]
    if go_on:
        assert told == {name: KeptWorker(pid or 0, 7) for name, pid in zip(BOTH, pids, strict=True)}
        for child in taken:
            rig.workers.adopt(child)
        rig.begin(4)
        assert len(rig.server.requests) == 2 and [child.generation for child in rig.workers.all] == [4, 4]
        assert kept.describe(adopts_from) == {}


def test_who_does_not_leave_its_generation_is_not_kept(rig: Rig) -> None:
    """These have no process that would answer."""
    rig.begin(3)
    assert rig.workers.part() == () and len(rig.workers.all) == 2


def test_messages_reach_the_workers_that_they_are_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.begin(1)
    first, second = (hear(rig.of(name), monkeypatch) for name in BOTH)
    rig.workers.command(LeaveGeneration(7))
    rig.workers.command(LeaveGeneration(1))
    rig.workers.command(ToWorker(1, "east/1", StoreReply(3)))
    rig.workers.command(RestAfterStep(1))
    assert all(child.vector.rest_requested for child in rig.workers.all)
    rig.workers.command(StopAfterStep(1))  # counts more
    rig.workers.command(RestAfterStep(1))
    assert first == [LeaveGeneration(1)]
    assert second == [LeaveGeneration(1), StoreReply(3)]
    assert all(child.vector.stop_requested for child in rig.workers.all)


@pytest.mark.parametrize(("named", "killed"), [((), [100, 101]), (("east/1",), [101])])
def test_some_or_all_are_killed(rig: Rig, named: tuple[str, ...], killed: list[int]) -> None:
    rig.begin(1)
    rig.workers.command(KillWorkers(7, named))
    rig.workers.command(KillWorkers(1, named))
    assert rig.server.killed == killed
    assert [child.killed for child in rig.workers.all] == [pid in killed for pid in (100, 101)]


def test_who_is_to_die_before_its_number_is_known_dies_then(rig: Rig) -> None:
    rig.workers.begin(ForkWorkers(1, ("east/0",), TRAIN))
    rig.workers.command(KillWorkers(1))
    assert not rig.server.killed
    rig.workers.note_forked(rig.server.requests[0].number, 7)
    assert rig.server.killed == [7]


def test_a_stop_of_the_last_generation_is_none_of_the_next(rig: Rig) -> None:
    rig.begin(1)
    rig.workers.command(StopAfterStep(1))
    rig.leave(*BOTH)
    rig.begin(2)
    assert not any(child.vector.stop_requested for child in rig.workers.all)


def test_what_cannot_be_forked_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.workers.begin(ForkWorkers(1, ("east/0",), TRAIN))
    child = rig.workers.note_fork_failed(rig.server.requests[0].number, "no memory")
    assert child.worker == "east/0"
    failing: Callable[..., Child] = _refuse
    monkeypatch.setattr(Child, "open", failing)
    rig.workers.begin(ForkWorkers(1, ("east/1",), dataclasses.replace(TRAIN, resume="x")))
    assert rig.told == [
        WorkerExited(1, "east/0", "train", 1, text="no memory"),
        WorkerExited(1, "east/1", "train", 1, text="cannot prepare a worker: [Errno 24] no descriptor"),
    ]


def _refuse(*arguments: object) -> Child:
    raise OSError(24, "no descriptor")
