"""The worker processes of one agent: forked for a generation, or handed over to the next one, also
to that of another controller."""

from __future__ import annotations

import itertools
import select
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dougong.control.fork_messages import ForkRequest
from dougong.control.handshake import AgentFacts, KeptWorker
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
from dougong.control.worker_messages import WorkerLeft
from dougong.deadlines import Deadlines
from dougong.launcher.agent.child import Child, read_messages
from dougong.launcher.agent.fork_servers import AdoptedProcesses, ForkServers, LoadedServer
from dougong.launcher.agent.settings import AgentSettings
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


class KeptWorkers:
    """Workers whose controller is gone: they have left its generation, and wait for the next one's,
    with what they hold in memory. They are this process's children."""

    def __init__(self) -> None:
        self._children: tuple[Child, ...] = ()
        self._variables: dict[str, str] = {}

    def keep(self, children: Sequence[Child], variables: Mapping[str, str]) -> None:
        """These, which were begun with such variables in their environment."""
        self._children, self._variables = tuple(children), dict(variables)

    def describe(self, adopts_from: int | None) -> dict[str, KeptWorker]:
        """By name, those that go on; the others are not wanted, as `AgentSettings` says."""
        found = {}
        for child in self._wanted(adopts_from):
            assert child.pid is not None, "it has said that it has left"
            found[child.worker] = KeptWorker(child.pid, child.held_step)
        return found

    def take(
        self, adopts_from: int | None, variables: Mapping[str, str], deadlines: Deadlines
    ) -> tuple[Child, ...]:
        """Those that go on in an environment with such variables; all others are ended."""
        is_same = self._variables == dict(variables)
        taken = self._wanted(adopts_from) if is_same else ()
        self._children = tuple(child for child in self._children if child not in taken)
        self.close(deadlines)
        return taken

    def close(self, deadlines: Deadlines) -> None:
        """End them."""
        with selectors.DefaultSelector() as selector:
            processes = AdoptedProcesses(selector, lambda pid, code: None)
            for child in self._children:
                if child.pid is not None:
                    processes.watch(child.pid)
                child.close()
            processes.close(deadlines)
        self._children = ()

    def _wanted(self, adopts_from: int | None) -> tuple[Child, ...]:
        if adopts_from is None:
            return ()
        return tuple(child for child in self._children if child.generation >= adopts_from)


@dataclass(frozen=True)
class Heritage:
    """What an agent has of one controller's time and keeps for the next one's: a fork server with
    what it has loaded, and workers with what they hold in memory."""

    loaded: LoadedServer = field(default_factory=LoadedServer)
    kept: KeptWorkers = field(default_factory=KeptWorkers)

    def keep(
        self,
        workers: Workers,
        adopted: AdoptedProcesses,
        variables: Mapping[str, str],
    ) -> None:
        """Those that leave their generation in time. `variables`: in their environment."""
        left = workers.part()
        adopted.let_go([child.pid for child in left if child.pid is not None])
        self.kept.keep(left, variables)

    def told(self, facts: AgentFacts, settings: AgentSettings) -> AgentFacts:
        """What an agent says of itself to the next controller, with its workers."""
        return replace(facts, kept=self.kept.describe(settings.adopts_from))

    def hand_over(
        self,
        workers: Workers,
        adopted: AdoptedProcesses,
        settings: AgentSettings,
        variables: Mapping[str, str],
    ) -> None:
        """To the next controller's time; it has told that controller of them."""
        for child in self.kept.take(settings.adopts_from, variables, settings.deadlines):
            assert child.pid is not None, "it has said that it has left"
            adopted.watch(child.pid)
            workers.adopt(child)

    def close(self, deadlines: Deadlines) -> None:
        """End all of it."""
        self.kept.close(deadlines)
        self.loaded.close()


def _is_leaving(child: Child) -> bool:
    """Whether its word is still awaited, after what it has said by now."""
    child.read_output()  # who prints more than a pipe holds would wait for its reader
    try:
        for message in read_messages(child.channel, lambda text: None):
            if isinstance(message, WorkerLeft):
                child.note_left(message.step)
    except (OSError, EOFError):
        return False
    return not child.has_left


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

    def adopt(self, child: Child) -> None:
        """One that an earlier controller has left waits for this one's first generation."""
        self._children[next(self._numbers)] = child
        self._opened(child)

    def part(self) -> tuple[Child, ...]:
        """Have all leave their generation, whose controller is gone. Those that have left it within
        `leave_s` are not among these any more; what they say besides, nobody needs."""
        living = [child for child in self.training if not child.killed]
        awaited = [child for child in living if not child.has_left]
        for child in awaited:
            child.tell(LeaveGeneration(child.generation))
        limits = self._places.deadlines
        # A job may set a longer one, and the next controller does not wait so long.
        within_s = min(limits.leave_s, limits.agent_waits_s - limits.last_word_s)
        until = time.monotonic() + within_s
        while awaited and time.monotonic() < until:
            lines = [child.channel for child in awaited]
            select.select(lines, [], [], max(0.0, until - time.monotonic()))
            awaited = [child for child in awaited if _is_leaving(child)]
        left = tuple(child for child in living if child.has_left)
        for child in left:
            self.forget(child)
        return left

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
