"""The worker processes of one agent: forked for a generation, or handed over to the next one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from dougong.control.fork_messages import ForkRequest
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
from dougong.control.tasks import Task, TrainTask
from dougong.deadlines import Deadlines
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.fork_servers import ForkServers
from dougong.records.directory import RunDir
from dougong.storage.worker_log import WorkerLog
from dougong.storage.writer import StorageWriter

Command = LeaveGeneration | ToWorker | KillWorkers | StopAfterStep | RestAfterStep
"""What the workers of a generation are to hear, or to suffer."""


@dataclass(frozen=True)
class WorkerPlaces:
    """Where an agent's workers are at home: the run whose logs they have, who writes those, and the
    network address of their machine."""

    run_dir: RunDir
    logs: StorageWriter
    address: str
    deadlines: Deadlines

    def log(self, generation: int, worker: str) -> WorkerLog:
        """A worker's log in this generation."""
        return WorkerLog(self.run_dir.log_file(generation, worker), self.logs)


class Workers:
    """All processes that the agent has had forked, and that have not been seen to end."""

    def __init__(
        self,
        fork_servers: ForkServers,
        places: WorkerPlaces,
        tell: Callable[[WorkerForked | WorkerExited], None],
        opened: Callable[[Child], None],
        handed_over: Callable[[Child], None],
    ) -> None:
        """`tell`: the controller. `opened(child)`: there is a new one to read from;
        `handed_over(child)`: the log of the generation that it has left is about to be closed."""
        self._fork_servers = fork_servers
        self._places = places
        self._tell = tell
        self._opened, self._handed_over = opened, handed_over
        self._children: dict[int, Child] = {}  # by the number of their fork request
        self._numbers = itertools.count(1)

    @property
    def all(self) -> tuple[Child, ...]:
        return tuple(self._children.values())

    def of(self, generation: int) -> list[Child]:
        """Those of a generation, among them who has left it and is in no later one."""
        return [child for child in self._children.values() if child.generation == generation]

    def of_pid(self, pid: int) -> Child:
        """The one with that process number, which is there."""
        return next(child for child in self._children.values() if child.pid == pid)

    def begin(self, order: ForkWorkers) -> None:
        """Have the workers of a generation do its task."""
        if isinstance(order.task, TrainTask):
            self._end_superfluous(order)
        for worker in order.workers:
            child = self._waiting(worker)
            if child is not None and isinstance(order.task, TrainTask):
                self._hand_over(child, order.generation, order.task)
            else:
                self._fork(worker, order.generation, order.task)

    def command(self, message: Command) -> None:
        """Pass a message on to the workers of its generation, or do to them what it says."""
        children = self.of(message.generation)
        match message:
            case LeaveGeneration():
                for child in children:
                    child.tell(message)
            case ToWorker(_, worker, inner):
                for child in children:
                    if child.worker == worker:
                        child.tell(inner)
            case KillWorkers(_, workers):
                for child in children:
                    if not workers or child.worker in workers:
                        self._kill(child)
            case StopAfterStep() | RestAfterStep():
                for child in children:
                    child.ask(message)

    def note_forked(self, number: int, pid: int) -> None:
        """The process of that request exists."""
        child = self._children[number]
        child.pid = pid
        self._tell(WorkerForked(child.generation, child.worker, pid))
        if child.killed:  # the order to kill it came before its number
            self._fork_servers.kill(pid)

    @property
    def training(self) -> list[Child]:
        """Those of a generation that trains."""
        return [child for child in self._children.values() if child.generation > 0]

    @property
    def unforked(self) -> list[Child]:
        """Those whose process is asked for, and not there yet."""
        return [child for child in self._children.values() if child.pid is None]

    def note_fork_failed(self, number: int, text: str) -> Child:
        """There will be no process for that request; whose it was."""
        return self.note_not_forked(self._children[number], text)

    def note_not_forked(self, child: Child, text: str) -> Child:
        """There will be no process for it; the same one."""
        self._tell(WorkerExited(child.generation, child.worker, child.task, code=1, text=text))
        return child

    def forget(self, child: Child) -> None:
        """It has ended."""
        number = next(number for number, known in self._children.items() if known is child)
        del self._children[number]

    def _end_superfluous(self, order: ForkWorkers) -> None:
        """Processes that wait for a generation, and have no part in this one."""
        for child in self._children.values():
            if child.has_left and child.worker not in order.workers:
                self._kill(child)

    def _waiting(self, worker: str) -> Child | None:
        """The worker's process, if it lives and has left its generation."""
        for child in self._children.values():
            if child.worker == worker and child.has_left and not child.killed:
                return child
        return None

    def _hand_over(self, child: Child, generation: int, task: TrainTask) -> None:
        """A new generation for a process that lives. The controller hears of it as of a fork."""
        self._handed_over(child)
        child.take(generation, task, self._places.log(generation, child.worker))
        child.tell(JoinGeneration(generation, task, self._places.address))
        assert child.pid is not None, "it could not have said that it has left"
        self._tell(WorkerForked(generation, child.worker, child.pid))

    def _fork(self, worker: str, generation: int, task: Task) -> None:
        places = self._places
        log = places.log(generation, worker)
        try:
            child = Child.open(worker, generation, task, log, places.deadlines)
        except OSError as error:
            log.close()
            text = f"cannot prepare a worker: {error}"
            self._tell(WorkerExited(generation, worker, task.task, code=1, text=text))
            return
        number = next(self._numbers)
        self._children[number] = child
        self._opened(child)
        request = ForkRequest(number, generation, worker, places.address, task)
        self._fork_servers.fork(request, child.worker_ends)
        child.close_worker_ends()

    def _kill(self, child: Child) -> None:
        child.killed = True
        if child.pid is not None:
            self._fork_servers.kill(child.pid)
