"""The process in which a backend's calls are made. Its one argument is its end of the line.

A library that ends the process in which it is used, as Ray does a minute after its head is gone,
ends this one and not the controller. It never outlives its controller.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
from queue import SimpleQueue
from typing import cast

from dougong.control.messages import ProtocolError
from dougong.control.processes import die_with_parent
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.base import Backend, RayNews
from dougong.launcher.backends.process.errors import ErrorWords
from dougong.launcher.backends.process.line import BackendLine
from dougong.launcher.backends.process.messages import (
    Answer,
    Awaiting,
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
    """Serves one backend. Calls are made by the thread that calls `serve`, one after the other; a
    close comes in between."""

    def __init__(self, backend: Backend, line: BackendLine) -> None:
        self._backend = backend
        self._line = line
        self._calls: SimpleQueue[Call] = SimpleQueue()

    def serve(self) -> None:
        """For ever: the process ends by a close, or when its controller is gone."""
        threading.Thread(target=self._read, name="dougong-calls", daemon=True).start()
        while True:
            call = self._calls.get()
            _leave_to_controller()  # what is called here may have taken the signals for itself
            self._line.send(self._answer(call))

    def _read(self) -> None:
        try:
            while not isinstance(call := self._line.receive(), CloseCall):
                if isinstance(call, _CALLS):
                    self._calls.put(call)
        except (EOFError, ProtocolError):
            os._exit(1)  # the controller is gone
        self._close(call)

    def _close(self, call: CloseCall) -> None:
        answer = self._answer(call)
        try:
            self._line.send(answer)
        finally:
            # Another call may be under way that never ends.
            os._exit(0)

    def _answer(self, call: Call) -> Answer:
        try:
            return self._do(call)
        except Exception as error:  # whatever it is, the caller is told
            return ErrorAnswer(call.number, ErrorWords.of(error))

    def _do(self, call: Call) -> Answer:
        backend = self._backend
        match call:
            case OpenCall(number):
                return OpenAnswer(number, backend.open())
            case NodesCall(number, kinds):
                return NodesAnswer(number, tuple(backend.nodes(kinds)))
            case EndedCall(number):
                return EndedAnswer(number, backend.ended())
            case StartCall():
                backend.start(call.specs, lambda spec: call.settings[spec.name], self._tell)
            case EndCall():
                backend.end(call.names)
            case CloseCall():
                backend.close()
        return DoneAnswer(call.number)

    def _tell(self, text: str) -> None:
        self._line.send(Awaiting(text))


def _leave_to_controller() -> None:
    """What is sent to everybody, such as Ctrl-C or the end of a batch job, is the controller's to
    decide. No child inherits that, as it would inherit a signal that is ignored."""
    for number in _DECIDED_BY_CONTROLLER:
        signal.signal(number, lambda number, frame: None)


def _made(setup: BackendSetup, line: BackendLine) -> Backend:
    module, _, name = setup.entry.partition(":")
    run_dir = None if setup.run_dir is None else RunDir(setup.run_dir)

    def tell(news: RayNews) -> None:
        line.send(RayNoticed(news))

    make = getattr(importlib.import_module(module), name)
    return cast(Backend, make(setup.choice, setup.deadlines, run_dir, tell))


def main() -> None:
    """Serve what the first message says."""
    _leave_to_controller()
    line = BackendLine(socket.socket(fileno=int(sys.argv[1])), DEADLINES.send_s)
    try:
        setup = line.receive()
    except EOFError:
        sys.exit(1)  # the controller is gone already
    assert isinstance(setup, BackendSetup), "the controller says first what is to be served"
    die_with_parent(setup.parent)
    sys.argv[:] = setup.command  # this process works for that command
    BackendServer(_made(setup, line), line).serve()


if __name__ == "__main__":
    main()
