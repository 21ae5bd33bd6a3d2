"""The line between an agent and whoever has started it: the agent's standard input, used both ways.

starter -> agent   AgentSettings, one line of JSON for each controller
agent -> starter   WAITS after each controller that is gone; AgentEnd before it ends
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from dataclasses import dataclass

from pydantic import TypeAdapter

from dougong.deadlines import Deadlines
from dougong.launcher.agent.settings import AgentSettings

WAITS = b".\n"
"""The controller is gone, nothing of it is left, and another one may be served."""
DETACHED = "detached"
"""The argument of an agent's process that outlives whoever has started it."""
_FD = 0


@dataclass(frozen=True)
class AgentEnd:
    """How an agent has ended. `by_controller`: by its controller's word; `error`: what went wrong,
    empty where nothing did."""

    by_controller: bool
    error: str = ""

    def to_json(self) -> str:
        """One line."""
        return TypeAdapter(AgentEnd).dump_json(self).decode()

    @staticmethod
    def from_json(text: str) -> AgentEnd:
        """The reverse of `to_json`; pydantic's ValidationError for anything else."""
        return TypeAdapter(AgentEnd).validate_json(text)


def give_settings(line: socket.socket | None, settings: AgentSettings) -> None:
    """The starter's end: what the agent is to serve. Not on its command line, which anybody may
    read: they hold the token. OSError when it is gone."""
    assert line is not None, "it has been let go of"
    line.sendall(settings.to_json().encode() + b"\n")


class StarterLine:
    """The agent's end."""

    def fileno(self) -> int:
        """For `select`."""
        return _FD

    def take(self, line: socket.socket) -> None:
        """From now on it is this one, from another starter."""
        with line:
            os.dup2(line.fileno(), _FD)
        # What the reader has kept of the other one is nobody's word any more.
        sys.stdin = os.fdopen(_FD, closefd=False)

    def say_pid(self) -> None:
        """Tell the starter which process this is."""
        self.say(f"{os.getpid()}\n".encode())

    def await_settings(self, deadlines: Deadlines) -> AgentSettings | None:
        """Those of the next controller; None: there is none, or it does not come in time."""
        ready, _, _ = select.select([_FD], [], [], deadlines.next_controller_s)
        try:
            line = sys.stdin.readline() if ready else ""
        except OSError:  # who held the other end has ended before it had read all
            return None
        return AgentSettings.from_json(line) if line else None

    def say(self, words: bytes) -> None:
        """No error when nobody holds the other end: whoever reads next is told."""
        with contextlib.suppress(OSError):
            os.write(_FD, words)
