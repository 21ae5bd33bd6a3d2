"""A real agent with real training workers, and a test in the place of the controller: it kills, has the others leave,
and forms the next generation."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dougong.checkpoint.part import CheckpointPart
from dougong.checkpoint.repository import Additions, commit, expected_tensors
from dougong.control.messages import (
    ForkWorkers,
    FromWorker,
    KillWorkers,
    LeaveGeneration,
    Message,
    RestAfterStep,
    ToWorker,
    WorkerExited,
    WorkerForked,
)
from dougong.control.tasks import TrainTask
from dougong.control.worker_api import WorkerContext
from dougong.control.worker_messages import (
    PartDurable,
    StateFetched,
    StepDone,
    StoreRequest,
    WorkerDone,
    WorkerLeft,
    WorkerRaised,
    WorkerRests,
)
from dougong.deadlines import DEADLINES
from dougong.job.optimizers.registry import declaration_of
from dougong.job.schema import Job
from dougong.launcher.controller.config import TRAINING
from dougong.launcher.controller.inbound.meeting_store import MeetingStore
from dougong.models.inventory import inspect_model
from dougong.parallel.comm.message import PartRoom, SplitTensor
from dougong.parallel.comm.peers import Sides
from dougong.parallel.comm.traffic import TrafficKind
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Expected, Outgoing
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import MessageKind
from dougong.training.session import joined
from tests.launcher.agent.test_agent import Played

UNDER_WAY = (MessageKind.ROWS, MessageKind.OUTPUTS)
"""The second is one that nobody hands over."""
PATIENT = dataclasses.replace(DEADLINES, controller_silence_s=600.0)


class Survivors:
    """One agent over several generations. `rows`: of all of them by step, the newest; `newest`: the last step of the
    present one; `pids`: of the present one's
    workers; `ended`: exits as they came; `left`, `raised`, `rests`, `fetched`: by generation and worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent = Played(folder, name="east", preload=TRAINING.preload, deadlines=PATIENT)
        self.store = MeetingStore()
        self.generation = 0
        self.rows: dict[int, dict[str, Any]] = {}
        self.newest = 0
        self.committed: dict[int, Path] = {}
        self.pids: dict[str, int] = {}
        self.ended: list[WorkerExited] = []
        self.left: set[tuple[int, str]] = set()
        self.raised: dict[tuple[int, str], WorkerRaised] = {}
        self.rests: set[tuple[int, str]] = set()
        self.fetched: dict[tuple[int, str], StateFetched] = {}
        self._done: set[tuple[int, str]] = set()
        self._parts: dict[tuple[int, int, str], CheckpointPart] = {}

    def begin(self, job: Job, plan: Plan, resume: int | None = None, entry: str = TRAINING.train) -> dict[str, int]:
        """The next generation; its workers' process numbers. `resume`: a step with a checkpoint; None: a run begins,
        and what was before is forgotten."""
        self.generation += 1
        self.newest = 0
        self.store = MeetingStore()
        if resume is None:
            for known in (self.rows, self.committed, self.ended, self.left, self.raised):
                known.clear()
        self._job, self._plan = job, plan
        task = TrainTask(
            entry=entry,
            job=job,
            plan=plan,
            run_dir=str(self.folder),
            console="",
            resume=None if resume is None else str(self.committed[resume]),
        )
        self.pids = {}
        self.agent.channel.send(ForkWorkers(self.generation, tuple(w.name for w in plan.workers), task))
        self.until(lambda: len(self.pids) == len(plan.workers))
        return dict(self.pids)

    def until(self, is_over: Callable[[], Any]) -> None:
        """Take what comes until the condition holds."""
        deadline = time.monotonic() + self.limit_s
        while not is_over():
            assert time.monotonic() < deadline, f"left {self.left}, raised {self.raised}, ended {self.ended}"
            self._take(self.agent.channel.receive(120))

    limit_s = 120.0

    def until_step(self, step: int) -> None:
        self.until(lambda: max(self.rows, default=0) >= step)

    def kill(self, worker: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.pids[worker], number)

    def have_left(self, *workers: str) -> None:
        """End the present generation for these, and wait until they have left it."""
        self.agent.channel.send(LeaveGeneration(self.generation))
        self.until(lambda: all((self.generation, worker) in self.left for worker in workers))

    def rest(self) -> None:
        """Have the present generation end after its step, and all its workers leave it."""
        names = tuple(worker.name for worker in self._plan.workers)
        self.agent.channel.send(RestAfterStep(self.generation))
        self.until(lambda: all((self.generation, name) in self.rests for name in names))
        self.have_left(*names)

    def have_killed(self, *workers: str) -> None:
        """What the controller does with those that do not leave."""
        self.agent.channel.send(KillWorkers(self.generation, workers))
        self.until(lambda: set(workers) <= {end.worker for end in self.ended})

    def finish(self) -> None:
        """Until all workers of the generation are done and have ended."""
        names = {w.name for w in self._plan.workers}
        self.until(lambda: {worker for g, worker in self._done if g == self.generation} == names)
        ended = self.ended
        self.until(lambda: names <= {e.worker for e in ended if e.generation == self.generation})
        assert all(e.code == 0 for e in ended if e.generation == self.generation)

    def close(self) -> None:
        self.agent.close()

    def _take(self, message: Message) -> None:
        match message:
            case WorkerForked(self.generation, worker, pid):
                self.pids[worker] = pid
            case WorkerExited():
                self.ended.append(message)
            case FromWorker(generation, worker, _, inner):
                self._hear(generation, worker, inner)

    def _hear(self, generation: int, worker: str, inner: Any) -> None:
        match inner:
            case StoreRequest() if generation == self.generation:
                for name, reply in self.store.ask(worker, inner):
                    self.agent.channel.send(ToWorker(generation, name, reply))
            case StepDone(step, row):
                self.rows[step] = row
                self.newest = step if generation == self.generation else self.newest
            case PartDurable(step, _, part):
                self._parts[generation, step, worker] = CheckpointPart.from_json(part)
                self._commit(generation, step)
            case WorkerLeft():
                self.left.add((generation, worker))
            case WorkerRests():
                self.rests.add((generation, worker))
            case StateFetched():
                self.fetched[generation, worker] = inner
            case WorkerRaised():
                self.raised[generation, worker] = inner
            case WorkerDone():
                self._done.add((generation, worker))

    def _commit(self, generation: int, step: int) -> None:
        parts = [part for (g, s, _), part in self._parts.items() if (g, s) == (generation, step)]
        if len(parts) == len(self._plan.workers):
            kinds = declaration_of(self._job.optimizer).kinds_like_parameters
            expected = expected_tensors(inspect_model(self._job.model, None), kinds)
            root = self.folder / "checkpoints"
            self.committed[step] = commit(root, step, generation, parts, Additions(expected=expected))


def fail_with_messages_under_way(context: WorkerContext) -> None:
    """The first worker raises while it waits, in threads and beside them, for tensors that the others never send."""
    with joined(context) as world:
        exchange = Exchange(world)
        others = tuple(rank for rank in range(world.size) if rank != world.rank)
        if world.rank != 0:
            world.barrier()
        everybody, sizes = tuple(range(world.size)), [3] * world.size
        exchange.expect([Expected(kind, (0, 0), Sides(everybody, everybody), 1) for kind in UNDER_WAY])
        exchange.make_room(MessageKind.ROWS, (0, 0), [PartRoom(sizes, (), torch.float32)])
        exchange.send(MessageKind.ROWS, (0, 0), Outgoing([SplitTensor(torch.zeros(sum(sizes)), sizes)]))
        world.transfer(TrafficKind.SUMS, [], [Transfer(rank, torch.zeros(9)) for rank in others], "what never comes")
        raise ZeroDivisionError("of its own")
