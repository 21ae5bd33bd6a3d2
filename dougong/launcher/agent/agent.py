"""An agent: one per island and node. Forks the island's workers there, sees them end, carries their
progress, messages and output to the controller.

`launcher.kept.serve` calls it for one controller after the other. All happens in one thread, which
returns when the controller says so or is gone; no worker outlives it.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from dougong.accelerators.registry import get_accelerator
from dougong.control.channel import Channel
from dougong.control.environment import network_variables
from dougong.control.fork_messages import (
    ChildExited,
    Forked,
    ForkFailed,
    ServerBroken,
    ServerReady,
)
from dougong.control.messages import (
    AgentFailed,
    AgentReady,
    EndAgent,
    ForkServerReplaced,
    ForkWorkers,
    FromWorker,
    Heartbeat,
    InflictFault,
    KillWorkers,
    LeaveGeneration,
    Message,
    OutputLine,
    Ping,
    RestAfterStep,
    StopAfterStep,
    ToWorker,
    WorkerExited,
)
from dougong.control.path_messages import TryPaths
from dougong.control.processes import OomWatch, adopt_orphans, interface_of
from dougong.control.progress import ForkServerSigns
from dougong.control.worker_messages import StorageTold, WorkerLeft, WorkerMessage
from dougong.errors import DougongError, PreemptedError
from dougong.launcher.agent.child import Child, read_messages
from dougong.launcher.agent.device_line import DeviceLine
from dougong.launcher.agent.facts import (
    describe_agent,
    left_out,
    refuse_variables,
    worker_variables,
)
from dougong.launcher.agent.fork_client import ForkServer
from dougong.launcher.agent.fork_servers import AdoptedProcesses, ForkServers
from dougong.launcher.agent.here.open_files import raise_open_files
from dougong.launcher.agent.paths import AgentPaths, reach_controller
from dougong.launcher.agent.rehearsal import inflict_on
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.agent.workers import Heritage, WorkerPlaces, Workers
from dougong.records.directory import RunDir
from dougong.records.shared_folder import withdraw_answers
from dougong.storage.watch import TroubleWatch
from dougong.storage.writer import PieceKind, StorageWriter

_OWN_LINES = PieceKind("own lines", most_bytes=1 << 16)
MAX_LINES_AT_ONCE = 50
"""Lines of one worker that are forwarded after one look at its output; more stay in its log."""


def serve_run(settings: AgentSettings, heritage: Heritage | None = None) -> bool:
    """Serve one controller for one run, and end everything that was started for it. `heritage`:
    what is kept where the controller is lost.

    Returns whether the controller ended this agent, rather than being gone. Raises a DougongError
    when the controller cannot be reached or the fork server not started.
    """
    raise_open_files()
    accelerator = get_accelerator(settings.accelerator)
    variables = worker_variables(accelerator, settings.threads, settings.deterministic)
    heritage = heritage or Heritage()
    facts = heritage.told(describe_agent(settings, accelerator, variables), settings)
    variables |= left_out(accelerator, settings.avoided)
    controller = reach_controller(settings, facts)
    try:
        paths = AgentPaths(settings, controller)
        if settings.deterministic:
            refuse_variables(accelerator)
        interface = interface_of(paths.address)
        variables |= network_variables(accelerator.interface_variables(interface))
        agent = Agent(settings, controller, variables, paths, heritage)
    except DougongError as error:
        controller.send(AgentFailed(str(error)))
        raise
    try:
        agent.serve()
    except DougongError as error:
        is_preempted = isinstance(error, PreemptedError)
        with contextlib.suppress(OSError):  # it is gone at the same time
            controller.send(AgentFailed(str(error), is_preempted=is_preempted))
        raise
    finally:
        agent.close()
        if settings.proof is not None:
            withdraw_answers(settings.proof, settings.name)
    return agent.ended_by_controller


class Agent:
    """The agent's loop: what the controller, the fork server and the workers say, as it comes.

    `ended_by_controller`: whether it has said that the run is over.
    """

    def __init__(
        self,
        settings: AgentSettings,
        controller: Channel,
        variables: Mapping[str, str],
        paths: AgentPaths,
        heritage: Heritage,
    ) -> None:
        """`variables`: what the workers' environment has besides. LaunchError when no fork server
        can be started."""
        self.ended_by_controller = self._is_lost = False
        self._heritage, self._variables = heritage, variables
        self._settings, self._deadlines = settings, settings.deadlines
        self._controller = controller
        # Beside this loop, which must beat while storage does not answer.
        self._logs = StorageWriter("workers' logs", settings.deadlines)
        self._log_watch = TroubleWatch(self._logs)
        self._selector = selectors.DefaultSelector()
        self._adopted: AdoptedProcesses | None = None
        if adopt_orphans():
            self._adopted = AdoptedProcesses(self._selector, self._on_child_exited)
        self._fork_servers = ForkServers(
            lambda: self._start_fork_server(variables),
            self._adopted,
            self._selector,
            note=self._note,
            replaced=self._on_replaced,
            failed=lambda why: self._fail(why, "fork_server"),
        )
        self._workers = self._make_workers(paths.address)
        self._devices: DeviceLine | None = None
        if get_accelerator(settings.accelerator).tells_health:
            kind, deadlines = settings.accelerator, settings.deadlines
            self._devices = DeviceLine(kind, variables, self._selector, controller.send, deadlines)
        self._paths = paths
        self._generation = self._num_looks = 0
        self._oom = OomWatch(self._deadlines.kill_s)
        self._is_over = False
        self._selector.register(controller, selectors.EVENT_READ, self._on_controller)
        if self._adopted is not None:
            heritage.hand_over(self._workers, self._adopted, settings, variables)

    def _make_workers(self, address: str) -> Workers:
        run_dir = RunDir(self._settings.run_dir)
        places = WorkerPlaces(run_dir, self._logs, address, self._deadlines)
        tell, opened, handed_over = self._controller.send, self._start_reading, self._on_output
        return Workers(self._fork_servers, places, tell, opened, handed_over)

    def _start_fork_server(self, variables: Mapping[str, str]) -> ForkServer:
        cwd = Path(self._settings.cwd)
        start = self._settings.fork_server(self._adopted is not None)
        return self._heritage.loaded.start(variables, start, cwd if cwd.is_dir() else None)

    def serve(self) -> None:
        """Until the controller ends the run or is gone; it is gone, too, when nothing has come
        from it for `controller_silence_s`."""
        try:
            self._loop()
        except (OSError, EOFError) as error:
            self._is_lost = True
            follows = "wait for another" if self._settings.is_followed else "end"
            self._print(f"the controller is gone ({error}); its workers {follows}")

    def close(self) -> None:
        """End the fork servers and the workers; what these printed last still reaches their
        logs."""
        self._paths.close()
        if self._devices is not None:
            self._devices.close()
        # What it has been asked for and has not answered would reach the next controller.
        may_stay = self._is_lost and self._settings.is_followed
        may_stay &= self._adopted is not None and not self._workers.unforked
        if may_stay and self._adopted is not None:
            self._heritage.keep(self._workers, self._adopted, self._variables)
        self._fork_servers.close(self._deadlines, self._heritage.loaded if may_stay else None)
        for child in self._workers.all:
            child.read_output(1024)
            child.close()
        self._selector.close()
        self._logs.settle(self._deadlines.logs_end_s)
        self._logs.close()

    def _loop(self) -> None:
        interval_s = self._deadlines.look_every_s
        next_look = time.monotonic() + interval_s
        self._fork_servers.tell_ready()
        self._on_controller()  # what came along with its welcome wakes no selector
        while not self._is_over:
            left_s = max(0.0, next_look - time.monotonic())
            for key, _ in self._selector.select(left_s):
                key.data()
            now = time.monotonic()
            if now >= next_look:
                self._look(now)
                self._look_after_processes(now)
                # A loop that was held up sends no volley to catch up.
                next_look = max(next_look + interval_s, now)
            self._check_silence(now)

    def _check_silence(self, now: float) -> None:
        if now - self._controller.heard_at > self._deadlines.controller_silence_s:
            limit, peer = self._deadlines.words("controller_silence_s"), self._controller.peer
            raise TimeoutError(f"nothing has come from {peer} for {limit}")

    def _look(self, now: float) -> None:
        """At all workers; and tell what is seen, as often as that is due."""
        children = self._workers.of(self._generation)
        progress = {child.worker: child.vector.read() for child in children}
        signs = {child.worker: child.look(progress[child.worker], now) for child in children}
        self._num_looks += 1
        if self._num_looks % self._deadlines.looks_of_a_heartbeat:
            return
        self._oom.look()
        told = progress, signs, self._paths.hearing, self._fork_servers.signs
        self._controller.send(Heartbeat(self._generation, self._num_looks, *told))
        news = self._log_watch.look()
        if news is not None:
            self._controller.send(StorageTold.of(news))

    def _look_after_processes(self, now: float) -> None:
        """Ten times a second: who has ended where no descriptor says so, whether it is time for a
        second fork server, and whether somebody reads the devices."""
        if self._devices is not None:
            self._devices.tick(now)
        if self._adopted is not None:
            self._adopted.reap()
        trains = any(child.vector.read().phase != "start" for child in self._workers.training)
        self._fork_servers.tick(trains, now, self._deadlines)

    def _print(self, text: str) -> None:
        # Its own log is on the run's disk.
        self._logs.put(_OWN_LINES, partial(_print_line, f"agent {self._settings.name}: {text}"))

    # What the controller says

    def _on_controller(self) -> None:
        for message in read_messages(self._controller, self._print):
            self._obey(message)

    def _obey(self, message: Message) -> None:
        match message:
            case ForkWorkers(generation):
                self._generation = generation
                self._log_watch.tell_again()
                self._workers.begin(message)
            case LeaveGeneration() | ToWorker() | KillWorkers() | StopAfterStep() | RestAfterStep():
                self._workers.command(message)
            case TryPaths():
                self._paths.answer(message)
            case InflictFault(generation):
                inflict_on(message, self._workers.of(generation), self._fork_servers)
            case EndAgent():
                self._is_over = self.ended_by_controller = True
            case Ping():
                pass  # the channel has noted that it was heard
            case _:
                self._print(f"the controller sent {message.kind}, which is not for an agent")

    # What the fork server says

    def _note(self, message: Message) -> None:
        match message:
            case ServerReady():
                self._controller.send(AgentReady(self._fork_servers.pid))
            case ServerBroken(text):
                self._fail(f"cannot import what the workers need:\n{text}")
            case Forked(number, pid):
                self._workers.note_forked(number, pid)
            case ForkFailed(number, text):
                self._forget(self._workers.note_fork_failed(number, text))
            case ChildExited(pid, code):
                self._on_child_exited(pid, code)
            case _:
                self._print(f"the fork server sent {message.kind}, which is not for an agent")

    def _on_replaced(self, why: str, hung: ForkServerSigns | None) -> None:
        """Nothing has failed but what it was about to fork; all workers live."""
        for child in self._workers.unforked:
            text = f"{why}, before it had forked this worker"
            self._forget(self._workers.note_not_forked(child, text))
        pid, is_ready = self._fork_servers.pid, self._fork_servers.can_fork
        self._controller.send(ForkServerReplaced(why, pid, hung, is_ready))

    def _fail(self, text: str, what: Literal["agent", "fork_server"] = "agent") -> None:
        self._controller.send(AgentFailed(text, what))
        self._is_over = True

    def _on_child_exited(self, pid: int, code: int) -> None:
        child = self._workers.of_pid(pid)
        # What it said before its end must reach the controller before the end itself does.
        self._on_worker(child)
        self._on_output(child)
        is_killed = code == -signal.SIGKILL and not child.killed
        self._controller.send(
            WorkerExited(
                child.generation,
                child.worker,
                child.task,
                code,
                pid,
                asked=child.killed,
                oom=is_killed and self._oom.explains_a_death(),
                last_lines=tuple(child.last_lines),
            )
        )
        self._forget(child)

    def _forget(self, child: Child) -> None:
        self._workers.forget(child)
        self._stop_reading(child.channel)
        self._stop_reading(child.output)
        child.close()

    # What the workers say

    def _start_reading(self, child: Child) -> None:
        read = selectors.EVENT_READ
        self._selector.register(child.channel, read, lambda: self._on_worker(child))
        self._selector.register(child.output, read, lambda: self._on_output(child))

    def _on_worker(self, child: Child) -> None:
        if child.closed:  # it ended earlier in this same round
            return

        def warn(text: str) -> None:
            self._forward_line(child, f"warning: malformed message: {text}")

        try:
            messages = _read_worker(child, warn)
        except EOFError:
            self._stop_reading(child.channel)
            return
        for message in messages:
            if isinstance(message, WorkerMessage):
                if isinstance(message, WorkerLeft):
                    child.note_left(message.step)
                self._controller.send(
                    FromWorker(child.generation, child.worker, child.task, message)
                )
            else:
                warn(f"{message.kind} is not for a worker to send")

    def _on_output(self, child: Child) -> None:
        if child.closed:
            return
        lines, is_open = child.read_output()
        for line in lines[:MAX_LINES_AT_ONCE]:
            self._forward_line(child, line)
        num_more = len(lines) - MAX_LINES_AT_ONCE
        if num_more > 0:
            self._forward_line(child, f"({num_more} more lines in its log)")
        if not is_open:
            self._stop_reading(child.output)

    def _forward_line(self, child: Child, text: str) -> None:
        self._controller.send(OutputLine(child.generation, child.worker, text))

    def _stop_reading(self, stream: Channel | int) -> None:
        with contextlib.suppress(KeyError):  # it had ended before
            self._selector.unregister(stream)


def _read_worker(child: Child, on_malformed: Callable[[str], None]) -> list[Message]:
    try:
        return read_messages(child.channel, on_malformed)
    except ConnectionResetError:
        # It has ended and has not read what it was told last. The system says that once, and then
        # gives what the worker itself has said before.
        return read_messages(child.channel, on_malformed)


def _print_line(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody can be told either
        print(line, file=sys.stderr, flush=True)
