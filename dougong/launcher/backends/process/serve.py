"""The process in which a backend's calls are made. Its one argument is its end of the line on which
controllers hand over theirs.

A library that ends the process in which it is used, as Ray does a minute after its head is gone,
ends this one and not the controller. It outlives a controller that another one follows, with all
that its backend holds, and serves that one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
from functools import partial
from queue import SimpleQueue
from typing import cast

from dougong.control.processes import die_with_parent
from dougong.deadlines import DEADLINES
from dougong.error_words import ErrorWords
from dougong.errors import LaunchError
from dougong.launcher.backends.base import LastingBackend, RayNews, TellNews
from dougong.launcher.backends.process.handover import Handover
from dougong.launcher.backends.process.line import BackendLine
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
from dougong.records.directory import RunDir

_DECIDED_BY_CONTROLLER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CALLS = (OpenCall, NodesCall, StartCall, EndCall, EndedCall)


class BackendServer:
    """Serves one backend to one controller after the other. Calls are made by the thread that calls
    `serve`, one after the other; a close comes in between."""

    def __init__(self, setup: BackendSetup, line: BackendLine, handover: Handover) -> None:
        """`setup`: the first controller's, who has said it on its `line`."""
        self._setup = setup
        self._line = line
        self._handover = handover
        self._backend = _made(setup, self._note)
        self._host = ""  # as long as the backend is not open
        self._has_controller = True
        self._is_wanted = True  # whether the present controller wants this backend
        self._calls: SimpleQueue[tuple[BackendLine, Call]] = SimpleQueue()

    def serve(self) -> None:
        """For ever: the process ends by a close, or when no controller is left."""
        threading.Thread(target=self._read, name="dougong-calls", daemon=True).start()
        while True:
            line, call = self._calls.get()
            if self._has_controller and line is self._line:  # else who asked is gone
                _leave_to_controller()  # what is called here may have taken the signals for itself
                _say(line, self._answer(line, call))

    def _read(self) -> None:
        following: BackendLine | None = self._line
        try:
            while following is not None:
                self._line, self._has_controller = following, True
                with contextlib.suppress(EOFError):
                    self._read_from(following)
                self._has_controller = False
                following.close()
                self._handover.say_waiting()
                following = self._handover.take_line(self._setup.deadlines)
        finally:
            os._exit(1)  # no controller is left, or not one that is understood

    def _read_from(self, line: BackendLine) -> None:
        """All that one controller says."""
        while not isinstance(message := line.receive(), CloseCall):
            if isinstance(message, BackendSetup):
                self._is_wanted = message.serves_as(self._setup)
            elif isinstance(message, _CALLS):
                self._calls.put((line, message))
        self._close(line, message)

    def _close(self, line: BackendLine, call: CloseCall) -> None:
        try:
            _say(line, self._answer(line, call))
        finally:
            # Another call may be under way that never ends.
            os._exit(0)

    def _answer(self, line: BackendLine, call: Call) -> Answer:
        try:
            return self._do(line, call)
        except Exception as error:  # whatever it is, the caller is told
            return ErrorAnswer(call.number, ErrorWords.of(error))

    def _do(self, line: BackendLine, call: Call) -> Answer:
        backend = self._backend
        match call:
            case OpenCall(number):
                return OpenAnswer(number, self._open())
            case NodesCall(number, kinds):
                return NodesAnswer(number, tuple(backend.nodes(kinds)))
            case EndedCall(number):
                return EndedAnswer(number, backend.ended())
            case StartCall():
                tell = partial(_tell, line)
                backend.start(call.specs, lambda spec: call.settings[spec.name], tell)
            case EndCall():
                backend.end(call.names)
            case CloseCall():
                backend.close()
        return DoneAnswer(call.number)

    def _open(self) -> str:
        if not self._is_wanted:
            raise LaunchError("another backend is served here")
        if self._host:
            self._backend.hand_over()
        else:
            self._host = self._backend.open()
        return self._host

    def _note(self, news: RayNews) -> None:
        _say(self._line, RayNoticed(news))


def _tell(line: BackendLine, text: str) -> None:
    _say(line, Awaiting(text))


def _say(line: BackendLine, message: BackendMessage) -> None:
    with contextlib.suppress(OSError):  # its controller is gone, as the reader hears, too
        line.send(message)


def _leave_to_controller() -> None:
    """What is sent to everybody, such as Ctrl-C or the end of a batch job, is the controller's to
    decide. No child inherits that, as it would inherit a signal that is ignored."""
    for number in _DECIDED_BY_CONTROLLER:
        signal.signal(number, lambda number, frame: None)


def _made(setup: BackendSetup, tell: TellNews) -> LastingBackend:
    module, _, name = setup.entry.partition(":")
    run_dir = None if setup.run_dir is None else RunDir(setup.run_dir)
    make = getattr(importlib.import_module(module), name)
    return cast(LastingBackend, make(setup.choice, setup.deadlines, run_dir, tell))


def main() -> None:
    """Serve what the first message of the first controller says."""
    _leave_to_controller()
    handover = Handover(socket.socket(fileno=int(sys.argv[1])))
    line = handover.take_line(DEADLINES)
    if line is None:
        sys.exit(1)  # the controller is gone already
    try:
        setup = line.receive()
    except EOFError:
        sys.exit(1)
    assert isinstance(setup, BackendSetup), "the controller says first what is to be served"
    if setup.parent is not None:
        die_with_parent(setup.parent)
    sys.argv[:] = setup.command  # this process works for that command
    BackendServer(setup, line, handover).serve()


if __name__ == "__main__":
    main()
