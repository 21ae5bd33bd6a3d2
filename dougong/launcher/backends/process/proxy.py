"""A backend whose work is done by a process of its own: the controller's side.

The controller is no driver of Ray. Ray ends its drivers when its head is gone; that is the end of
this process then, and a training that needs no backend at that moment goes on. Whoever needs it
again begins another one. The controller's own end is none of this process's where another follows:
that one takes it over, with Ray and the agents.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent import futures

from dougong.control.environment import child_environment
from dougong.control.messages import ProtocolError
from dougong.control.processes import end_words
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.backends.base import RayNews, RayPart, SettingsOf, Tell, TellNews
from dougong.launcher.backends.process.handover import hand_line
from dougong.launcher.backends.process.messages import (
    Answer,
    Awaiting,
    BackendMessage,
    BackendSetup,
    Call,
    CloseCall,
    DoneAnswer,
    EndCall,
    EndedAnswer,
    EndedCall,
    ErrorAnswer,
    NodesAnswer,
    NodesCall,
    OpenAnswer,
    OpenCall,
    RayNoticed,
    StartCall,
)
from dougong.launcher.backends.process.unheld import without_unheld
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.launcher.backends.ray_head import find_head
from dougong.launcher.kept.keeping import Keeping, KeptProcess
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase

RAY = "dougong.launcher.backends.process.ray_watch:WatchedRay"
_NAME = "backend"
"""By which a command keeps its process."""


class BackendLostError(LaunchError):
    """The process of a backend has ended, or does not answer."""


class ProcessBackend:
    """`choice`, `run_dir`: as for `RayBackend`. `tell`: hears, from a thread of our own, that a
    part of Ray is gone or there again. `keeping`: with the command beside the controller, where
    another controller would follow it. `entry`: as in `BackendSetup`."""

    phase: Phase = "Ray"
    shared_devices = False

    def __init__(
        self,
        choice: RayChoice,
        deadlines: Deadlines,
        run_dir: RunDir | None,
        tell: TellNews,
        keeping: Keeping | None = None,
        entry: str = RAY,
    ) -> None:
        self._choice = choice
        self._deadlines = deadlines
        self._run_dir = run_dir
        self._tell = tell
        self._keeping = keeping
        self._lost: RayPart | None = None  # the part whose loss was told last
        self._entry = entry
        self._started: dict[str, AgentSpec] = {}
        self._unheld: dict[str, AgentSpec] = {}  # those that a process before this one has started
        self._addresses: dict[str, str] = {}  # of nodes, by their ids
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()  # for whoever begins a process or ends it for good
        self._process: BackendProcess | None = None
        self._is_closed = False

    @property
    def may_grow(self) -> bool:
        return self._choice.address is not None

    def open(self) -> str:
        return self._begin()

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        answer = self._ask(NodesCall(self._next, tuple(kinds)), "backend_call_s")
        assert isinstance(answer, NodesAnswer)
        self._addresses |= {node.id: node.address for node in answer.nodes}
        return without_unheld(answer.nodes, self._unheld.values(), self._addresses)

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        settings = {spec.name: settings_of(spec) for spec in specs}
        self._ask(StartCall(self._next, tuple(specs), settings), "backend_call_s", tell)
        for spec in specs:
            self._started[spec.name] = spec
            self._unheld.pop(spec.name, None)

    def end(self, names: Sequence[str]) -> None:
        for name in names:
            self._started.pop(name, None)
            self._unheld.pop(name, None)
        # Nothing is left to be given back by Ray where its driver is gone; an agent that lives
        # ends by itself when its controller has let it go.
        if self._lives:
            self._ask(EndCall(self._next, tuple(names)), "backend_call_s")

    def ended(self) -> dict[str, str]:
        if not self._lives:
            return {}
        try:
            answer = self._ask(EndedCall(self._next), "backend_call_s")
        except BackendLostError:
            return {}  # told already, and no reason to take anybody for ended
        assert isinstance(answer, EndedAnswer)
        return answer.reasons

    def how_ended(self, name: str) -> str:
        return ""  # its node may be any: what Ray knows of it comes later

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
        if self._process is not None:
            self._process.close(CloseCall(self._next))

    @property
    def _next(self) -> int:
        return next(self._numbers)

    @property
    def _lives(self) -> bool:
        return self._process is not None and self._process.lost is None

    def _ask(self, call: Call, limit: str, tell: Tell | None = None) -> Answer:
        if not self._lives:
            self._begin()
        assert self._process is not None
        return self._process.ask(call, limit, tell)

    def _begin(self) -> str:
        """A process, the first one or in the place of one that has ended; its backend's address."""
        if self._choice.address is not None:
            find_head(self._choice, self._deadlines)  # while it is awaited nothing is begun
        host = self._take_over() or self._opened(_spawn(), "backend_open_s")
        self._unheld = dict(self._started)
        if self._lost is not None:
            self._note(RayNews(self._lost, False, "Ray answers again"))
        return host

    def _take_over(self) -> str:
        """The process of the controller before, where it lives, waits and serves the same; its
        backend's address, empty where another process must be begun."""
        kept = None if self._keeping is None else self._keeping.take(_NAME)
        if kept is None:
            return ""
        try:
            return self._opened(kept, "agent_waits_s")
        except LaunchError:
            return ""

    def _opened(self, kept: KeptProcess, limit: str) -> str:
        """Have a process open its backend; its address. LaunchError where that fails: the process
        is of no use then, and has been ended."""
        run_dir = None if self._run_dir is None else str(self._run_dir.path)
        parent = os.getpid() if self._keeping is None else None
        setup = BackendSetup(
            self._entry, self._choice, self._deadlines, run_dir, parent, tuple(sys.argv)
        )
        process = BackendProcess(kept, setup, self._note)
        with self._turn:
            is_closed = self._is_closed
            self._process = process
        try:
            if is_closed:
                raise LaunchError("the run ended before its backend was open")
            if self._keeping is not None:
                self._keeping.keep(kept)
            answer = process.ask(OpenCall(self._next), limit)
        except LaunchError:
            process.kill()
            raise
        assert isinstance(answer, OpenAnswer)
        return answer.host

    def _note(self, news: RayNews) -> None:
        """Tell it, unless it only follows from what was told: Ray's drivers end with its head."""
        if news.part == "driver" and news.is_lost and self._lost is not None:
            return
        if not news.agent and not news.is_warning:
            self._lost = news.part if news.is_lost else None
        self._tell(news)


class BackendProcess:
    """One such process from its beginning to its end. `lost`: why it has ended, None while it
    lives."""

    def __init__(self, process: KeptProcess, setup: BackendSetup, tell_news: TellNews) -> None:
        self.lost: str | None = None
        self._deadlines = setup.deadlines
        self._tell_news = tell_news
        self._tell: Tell = _say_nothing
        self._is_open = self._is_closing = False
        self._waiting: dict[int, futures.Future[Answer]] = {}
        self._turn = threading.Lock()  # for `lost` and those who wait
        self._process = process
        self._line = hand_line(process, setup.deadlines)
        self._send(setup)
        threading.Thread(target=self._read, name="dougong-answers", daemon=True).start()

    def ask(self, call: Call, limit: str, tell: Tell | None = None) -> Answer:
        """The answer to a call. Raises what it has raised; BackendLostError when the process ends
        before, or does not answer within the limit (a field of `Deadlines`): what it is at goes on
        then, and its answer is not waited for. `tell`: is told what it waits for."""
        answer: futures.Future[Answer] = futures.Future()
        with self._turn:
            if self.lost is not None:
                raise BackendLostError(self.lost)
            self._waiting[call.number] = answer
        if tell is not None:
            self._tell = tell
        self._send(call)
        try:
            found = answer.result(getattr(self._deadlines, limit))
        except futures.TimeoutError:
            waited = self._deadlines.words(limit)
            raise BackendLostError(f"{self.name} does not answer: waited {waited}") from None
        finally:
            self._waiting.pop(call.number, None)
            if tell is not None:
                self._tell = _say_nothing
        if isinstance(found, ErrorAnswer):
            raise found.error.error()
        return found

    @property
    def name(self) -> str:
        return f"the process that speaks with Ray (pid {self._process.pid})"

    def close(self, call: CloseCall) -> None:
        """End it, in order where it answers, by SIGKILL where it does not."""
        self._is_closing = True
        with contextlib.suppress(LaunchError):  # how the run has ended is known already
            self.ask(call, "backend_end_s")
        self.kill()
        self._line.close()

    def kill(self) -> None:
        """End it at once."""
        self._is_closing = True
        with self._turn:
            self.lost = self.lost or f"{self.name} was ended"
        self._process.kill(self._deadlines)

    def _send(self, message: BackendMessage) -> None:
        with contextlib.suppress(OSError):  # the reader hears of the end, and tells who waits
            self._line.send(message)

    def _read(self) -> None:
        try:
            while True:
                self._take(self._line.receive())
        except (EOFError, ProtocolError) as error:
            self._note_end(error)

    def _take(self, message: BackendMessage) -> None:
        match message:
            case Awaiting(text):
                self._tell(text)
            case RayNoticed(news):
                self._tell_news(news)
            case OpenAnswer() | NodesAnswer() | EndedAnswer() | DoneAnswer() | ErrorAnswer():
                self._is_open |= isinstance(message, OpenAnswer)
                waiting = self._waiting.pop(message.number, None)
                if waiting is not None:  # None: it came too late
                    waiting.set_result(message)
            case _:
                raise ProtocolError(f"{self.name} sent {message.kind}, which is for it to hear")

    def _note_end(self, error: Exception) -> None:
        why = self._words_of_end(error)
        with self._turn:
            self.lost = why
            waiting, self._waiting = list(self._waiting.values()), {}
        for answer in waiting:
            answer.set_exception(BackendLostError(why))
        if self._is_open and not self._is_closing:  # whoever opens it is told already
            text = f"{why}; Ray may give to others what it held for agents"
            self._tell_news(RayNews("driver", True, text))

    def _words_of_end(self, error: Exception) -> str:
        if not self._process.wait(self._deadlines.exit_status_s):
            self._process.kill(self._deadlines)  # else it would wait for another controller
            return f"{self.name} has closed its line: {error}"
        status = self._process.status
        if status is None:
            return f"{self.name} has ended"  # whose child it is hears more
        return f"{self.name} {end_words(status)}"


def _say_nothing(text: str) -> None:
    """Nobody waits any more."""


def _spawn() -> KeptProcess:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = str(theirs.fileno())
    command = [sys.executable, "-m", "dougong.launcher.backends.process.serve", line]
    try:
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=child_environment({}),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the controller
            )
    except OSError as error:
        ours.close()
        raise LaunchError(f"cannot start {command[0]}: {error}") from error
    return KeptProcess.of(_NAME, process, ours)
