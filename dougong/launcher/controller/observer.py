"""What the controller knows: every item of the inbox changes a fact here, and nothing here decides
what to do.

`pump` waits for a condition by handling items until it holds; it is the only place where the
controller waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dougong.control.messages import (
    Acknowledged,
    AgentFailed,
    AgentReady,
    FromWorker,
    Heartbeat,
    OutputLine,
    Ping,
    RequestRefused,
    StopAfterStep,
    StopRun,
    WorkerExited,
    WorkerForked,
)
from dougong.control.processes import signal_name
from dougong.control.worker_messages import (
    DrillAnnounced,
    PartDurable,
    StepDone,
    WorkerDone,
    WorkerMessage,
    WorkerRaised,
    WorkerWarning,
)
from dougong.errors import DougongError, LaunchError
from dougong.launcher.controller.agents import AgentHandle, Agents
from dougong.launcher.controller.checkpoints import CheckpointManager, Committed
from dougong.launcher.controller.generation import Generation
from dougong.launcher.controller.inbox import (
    AgentJoined,
    AgentLeft,
    AgentMessage,
    Background,
    ClientRequest,
    Inbox,
    PeerRefused,
    SignalReceived,
    TaskEnded,
)
from dougong.parallel.plan import Inventory
from dougong.ui.recorder import Recorder

TICK_S = 0.1
AGENT_SILENCE_S = 10.0
LAST_WORKER_S = 600.0
STALL_S = 120.0
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Stopped(Exception):
    """Ends the present wait: somebody asked to stop, and there is no step that could be finished
    first."""


@dataclass
class Stop:
    """A request to stop, and the exit status that it earns. `now`: do not wait for the step."""

    by: str
    status: int
    now: bool = False


def as_ours(error: BaseException) -> DougongError:
    """An error of ours as it is, any other as a LaunchError with its words."""
    return (
        error
        if isinstance(error, DougongError)
        else LaunchError(f"{type(error).__name__}: {error}")
    )


class Observer:
    """Facts about one run's agents, workers, checkpoints and requests, kept current by `pump`."""

    def __init__(
        self,
        inbox: Inbox,
        scribe: Recorder,
        keeper: CheckpointManager,
        fired: frozenset[tuple[int, str]],
    ) -> None:
        self.inbox = inbox
        self.scribe = scribe
        self.keeper = keeper
        self.fired = set(fired)
        self.crew: Agents | None = None
        self.generation: Generation | None = None
        self.inventory: Inventory | None = None
        self.number = 0
        self.step = 0
        self.stop: Stop | None = None
        self.stoppable = False  # whether there is a step in progress that a stop lets end
        self.watched = (
            True  # whether the loss of an agent is somebody's to diagnose; else it ends the wait
        )
        self.commit_error: BaseException | None = None
        self.answers: dict[
            tuple[str, str], WorkerMessage | WorkerExited
        ] = {}  # of generation 0's children, by task and worker
        self._results: dict[str, TaskEnded] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            AgentJoined: self._on_joined,
            AgentMessage: self._on_heard,
            AgentLeft: self._on_left,
            ClientRequest: self._on_asked,
            PeerRefused: self._on_refused,
            SignalReceived: self._on_signal,
            TaskEnded: self._on_called,
        }
        self._messages: dict[type, Callable[[AgentHandle, Any], None]] = {
            Heartbeat: self._on_beat,
            AgentReady: self._on_ready,
            AgentFailed: self._on_agent_failed,
            WorkerForked: self._on_forked,
            WorkerExited: self._on_exit,
            OutputLine: self._on_line,
            FromWorker: self._on_worker_message,
        }
        self._worker_messages: dict[type, Callable[[str, Any], None]] = {
            StepDone: self._on_step,
            PartDurable: self._on_part,
            DrillAnnounced: self._on_drill,
            WorkerWarning: self._on_warning,
            WorkerRaised: self._on_error,
            WorkerDone: self._on_done,
        }

    def pump(self, until: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Handle what comes until the condition holds. LaunchError with `what` at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                raise LaunchError(f"{what}: not within {timeout_s:.0f} s")
            item = self.inbox.get(min(left, TICK_S))
            if item is not None:
                self._handlers[type(item)](item)
            self._tick()

    def call(
        self, background: Background, task: str, function: Callable[[], Any], timeout_s: float
    ) -> Any:
        """Run a function in a background thread, pumping meanwhile; its value, or its error raised
        here."""
        self._results.pop(task, None)
        background.call(task, function)
        return self.result(task, timeout_s)

    def result(self, task: str, timeout_s: float) -> Any:
        """The value of a task that was called, waited for."""
        self.pump(lambda: task in self._results, timeout_s, f"{task} of the run")
        called = self._results.pop(task)
        if called.error is not None:
            raise as_ours(called.error) from called.error
        return called.value

    def _tick(self) -> None:
        now = time.monotonic()
        self.scribe.tick()
        for member in list(self.crew.members.values()) if self.crew else ():
            if (
                member.channel is not None
                and member.lost is None
                and now - member.channel.heard_at > AGENT_SILENCE_S
            ):
                self._lose(
                    member, f"no heartbeat for {AGENT_SILENCE_S:.0f} s: node down, or cut off"
                )
        if self.generation is not None:
            self._watch_progress(self.generation, now)

    def _watch_progress(self, generation: Generation, now: float) -> None:
        for mate in generation.newly_stalled(STALL_S):
            text = f"no progress for {STALL_S:.0f} s, in {mate.phase} of step {mate.step}"
            self.scribe.event("warning", generation.number, text=text, workers=[mate.worker.name])
        if generation.first_done_at is not None and now - generation.first_done_at > LAST_WORKER_S:
            generation.note_hung(
                f"still at work {LAST_WORKER_S:.0f} s after the first worker was done"
            )

    # Agents

    def _on_joined(self, item: AgentJoined) -> None:
        if self.crew is None or not self.crew.welcome(item):
            self._on_refused(PeerRefused(f"agent {item.agent!r} is not expected"))

    def _on_left(self, item: AgentLeft) -> None:
        if self.crew is not None and self.crew.is_current(item.agent, item.channel):
            self._lose(self.crew.members[item.agent], item.reason)

    def _lose(self, member: AgentHandle, reason: str) -> None:
        """An agent is gone. While nobody watches for that (at the start), it ends the wait."""
        assert self.crew is not None
        place = member.hello.node if member.hello else "its node"
        text = f"agent {member.spec.name} on {place}: {reason}"
        self.crew.lose(member, text)
        if self.generation is not None:
            self.generation.note_lost(member.spec.workers, text)
        if not self.watched:
            raise LaunchError(text)

    def _on_heard(self, item: AgentMessage) -> None:
        if self.crew is None or not self.crew.is_current(item.agent, item.channel):
            return
        member = self.crew.members[item.agent]
        kind = type(item.message)
        if kind in self._messages:
            self._messages[kind](member, item.message)
        else:
            self._on_refused(
                PeerRefused(
                    f"agent {item.agent} said {item.message.kind!r}, which is not for a controller"
                )
            )

    def _current(
        self, message: Heartbeat | WorkerForked | WorkerExited | FromWorker
    ) -> Generation | None:
        """The present generation, if the message is of it: what an older one still says is of no
        account."""
        generation = self.generation
        return (
            generation
            if generation is not None and message.generation == generation.number
            else None
        )

    def _on_beat(self, member: AgentHandle, message: Heartbeat) -> None:
        generation = self._current(message)
        if generation is not None:
            generation.note_beat(message)

    def _on_ready(self, member: AgentHandle, message: AgentReady) -> None:
        member.ready = True

    def _on_agent_failed(self, member: AgentHandle, message: AgentFailed) -> None:
        self._lose(member, message.text)

    def _on_forked(self, member: AgentHandle, message: WorkerForked) -> None:
        generation = self._current(message)
        if generation is not None:
            generation.mates[message.worker].pid = message.pid
            if all(mate.pid is not None for mate in generation.mates.values()):
                self.scribe.write_status()

    def _on_exit(self, member: AgentHandle, message: WorkerExited) -> None:
        generation = self._current(message)
        if generation is not None:
            generation.note_exit(message)
        elif message.generation == 0:
            self.answers.setdefault((message.task, message.worker), message)

    def _on_line(self, member: AgentHandle, message: OutputLine) -> None:
        """Show a line, unless it is the echo of a failure that is known already: that stays in its
        log."""
        worker, generation = message.worker, self.generation
        if generation is not None and not generation.is_speaking(worker, message.generation):
            return
        self.scribe.view.worker_line(worker, message.text)

    # Workers

    def _on_worker_message(self, member: AgentHandle, message: FromWorker) -> None:
        worker, inner = message.worker, message.message
        if message.generation == 0:
            self.answers.setdefault((message.task, worker), inner)
        elif self._current(message) is not None:
            handler = self._worker_messages.get(type(inner))
            if handler is None:
                text = f"worker {worker} said {inner.kind!r}, which nobody asked for"
                self._on_refused(PeerRefused(text))
            else:
                handler(worker, inner)

    def _on_step(self, worker: str, message: StepDone) -> None:
        generation = self.generation
        assert generation is not None
        self.step = int(message.row["step"])
        self.scribe.step({"attempt": generation.number, **message.row})
        if not generation.has_stepped:
            generation.has_stepped = True
            self.scribe.event("first_step", generation.number, step=self.step)

    def _on_part(self, worker: str, message: PartDurable) -> None:
        generation, inventory = self.generation, self.inventory
        assert generation is not None and inventory is not None
        if self.keeper.add(worker, generation.number, message, generation.plan, inventory):
            self.scribe.event("checkpoint_started", generation.number, step=message.step)

    def _on_drill(self, worker: str, message: DrillAnnounced) -> None:
        assert self.generation is not None
        self.generation.mates[worker].drill = True
        self.fired.add((message.step, worker))
        self.scribe.event(
            "drill", self.number, worker=worker, step=message.step, action=message.action
        )

    def _on_warning(self, worker: str, message: WorkerWarning) -> None:
        self.scribe.event("warning", self.number, text=message.text, workers=[worker])

    def _on_error(self, worker: str, message: WorkerRaised) -> None:
        assert self.generation is not None
        self.generation.note_error(worker, message)

    def _on_done(self, worker: str, message: WorkerDone) -> None:
        assert self.generation is not None
        self.generation.note_done(worker)

    # Everybody else

    def _on_refused(self, item: PeerRefused) -> None:
        self.scribe.event("warning", self.number, text=item.text, workers=[])

    def _on_signal(self, item: SignalReceived) -> None:
        status = EXIT_INTERRUPTED if signal_name(item.number) == "SIGINT" else EXIT_TERMINATED
        self._request(Stop(signal_name(item.number), status))

    def _on_asked(self, item: ClientRequest) -> None:
        try:
            if isinstance(item.message, StopRun):
                item.channel.send(Acknowledged())
                self._request(Stop("dougong stop", EXIT_INTERRUPTED, item.message.now))
            elif isinstance(item.message, Ping):
                item.channel.send(Acknowledged())
            else:
                item.channel.send(RequestRefused(f"{item.message.kind!r} is no client's request"))
        except OSError as error:
            self._on_refused(PeerRefused(f"a client left before its answer: {error}"))
        finally:
            item.channel.close()

    def _request(self, stop: Stop) -> None:
        """A first request lets the step end, where there is one; a second one does not."""
        first = self.stop is None
        if self.stop is None:
            self.stop = stop
            self.scribe.event("stop_requested", self.number, by=stop.by)
        else:
            self.stop.now = True
        if stop.now or not self.stoppable:
            self.stop.now = True
            raise Stopped
        if first and self.crew is not None:
            self.crew.tell_all(StopAfterStep(self.number))
            self.scribe.state("STOPPING", self.number)
        if self.stop.now:
            raise Stopped

    def _on_called(self, item: TaskEnded) -> None:
        if item.task == "commit":
            self._on_commit(item)
        else:
            self._results[item.task] = item

    def _on_commit(self, item: TaskEnded) -> None:
        committed: Committed | None = item.value
        self.keeper.commit_ended(committed)
        self.commit_error = item.error
        if committed is None:
            self.scribe.event(
                "warning", self.number, text=f"checkpoint not committed: {item.error}", workers=[]
            )
            return
        name, seconds = committed.directory.name, round(committed.seconds, 3)
        self.scribe.event(
            "checkpoint_committed",
            self.number,
            step=committed.step,
            directory=name,
            bytes=committed.num_bytes,
            seconds=seconds,
        )
        for invalid in committed.invalid:
            self.scribe.event(
                "checkpoint_rejected",
                self.number,
                directory=invalid,
                reason="not as it was written",
            )

    def state_of_workers(self) -> list[dict[str, Any]]:
        """As in status.json."""
        generation = self.generation
        return [mate.describe() for mate in generation.mates.values()] if generation else []
