"""What an agent and its fork server say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dougong.control.tasks import Task
from dougong.deadlines import Deadlines


@dataclass(frozen=True)
class StartServer:
    """Import these modules; ServerReady or ServerBroken comes back. One of the form
    `module:function` is called, too, with `model_types`. `adopts`: the agent takes over what is
    forked, so that it outlives the fork server. `agent`: its name."""

    modules: tuple[str, ...]
    deadlines: Deadlines
    adopts: bool = False
    model_types: tuple[str, ...] = ()
    agent: str = ""
    kind: Literal["start_server"] = "start_server"


@dataclass(frozen=True)
class ForkRequest:
    """Fork one worker. `number` comes back with its process id; three descriptors come along:
    the worker's socket, its log and its progress vector. `address`: the agent's network address."""

    number: int
    generation: int
    worker: str
    address: str
    task: Annotated[Task, Field(discriminator="task")]
    kind: Literal["fork_request"] = "fork_request"


@dataclass(frozen=True)
class KillRequest:
    """SIGKILL a forked process and what it started."""

    pid: int
    kind: Literal["kill_request"] = "kill_request"


@dataclass(frozen=True)
class SignalRequest:
    """Send a signal to a forked process alone, as a drill says."""

    pid: int
    number: int
    kind: Literal["signal_request"] = "signal_request"


@dataclass(frozen=True)
class ServerReady:
    """Everything is imported."""

    kind: Literal["server_ready"] = "server_ready"


@dataclass(frozen=True)
class ServerBroken:
    """What workers need cannot be imported; `text` is the traceback."""

    text: str
    kind: Literal["server_broken"] = "server_broken"


@dataclass(frozen=True)
class Forked:
    """The answer to the fork request with this number."""

    number: int
    pid: int
    kind: Literal["forked"] = "forked"


@dataclass(frozen=True)
class ForkFailed:
    """The system could not fork for the request with this number."""

    number: int
    text: str
    kind: Literal["fork_failed"] = "fork_failed"


@dataclass(frozen=True)
class ChildExited:
    """A forked process has been reaped. `code`: exit status, negative for a signal."""

    pid: int
    code: int
    kind: Literal["child_exited"] = "child_exited"
