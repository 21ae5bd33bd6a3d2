"""What the controller's side of a backend and the process that does its work say to each other.

controller -> process   BackendSetup first; OpenCall, NodesCall, StartCall, EndCall, EndedCall;
                        CloseCall, at any time
process -> controller   for each call one answer with its number, or an ErrorAnswer; Awaiting in
                        between; RayNoticed at any time
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dougong.control.messages import ProtocolError
from dougong.deadlines import Deadlines
from dougong.error_words import ErrorWords
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import RayNews
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec

# Controller to process


@dataclass(frozen=True)
class BackendSetup:
    """Which backend the process is to serve. `entry`: `module:function`, which makes one of the
    choice, the limits, the run's directory and what hears of news; `parent`: whose death ends the
    process, None: that nobody hands it another line; `command`: the words that a person has typed,
    for errors that tell how to type them."""

    entry: str
    choice: RayChoice
    deadlines: Deadlines
    run_dir: str | None
    parent: int | None
    command: tuple[str, ...]
    kind: Literal["setup"] = "setup"

    def serves_as(self, other: BackendSetup) -> bool:
        """Whether one process can be both: the backends would be the same."""
        return replace(self, parent=other.parent, command=other.command) == other


@dataclass(frozen=True)
class OpenCall:
    """`Backend.open`, or `LastingBackend.hand_over` where it is open."""

    number: int
    kind: Literal["open"] = "open"


@dataclass(frozen=True)
class NodesCall:
    """`Backend.nodes`."""

    number: int
    kinds: tuple[str, ...]
    kind: Literal["nodes"] = "nodes"


@dataclass(frozen=True)
class StartCall:
    """`Backend.start`. `settings`: of each agent, by its name."""

    number: int
    specs: tuple[AgentSpec, ...]
    settings: dict[str, AgentSettings]
    kind: Literal["start"] = "start"


@dataclass(frozen=True)
class EndCall:
    """`Backend.end`."""

    number: int
    names: tuple[str, ...]
    kind: Literal["end"] = "end"


@dataclass(frozen=True)
class EndedCall:
    """`Backend.ended`."""

    number: int
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True)
class CloseCall:
    """`Backend.close`, also while another call is under way. The process ends after its answer."""

    number: int
    kind: Literal["close"] = "close"


# Process to controller


@dataclass(frozen=True)
class OpenAnswer:
    """`host`: this machine's address as the nodes reach it."""

    number: int
    host: str
    kind: Literal["opened"] = "opened"


@dataclass(frozen=True)
class NodesAnswer:
    """The nodes there are."""

    number: int
    nodes: tuple[Node, ...]
    kind: Literal["listed"] = "listed"


@dataclass(frozen=True)
class EndedAnswer:
    """The agents that have ended, and why."""

    number: int
    reasons: dict[str, str]
    kind: Literal["reasons"] = "reasons"


@dataclass(frozen=True)
class DoneAnswer:
    """It is done, and there is nothing to say."""

    number: int
    kind: Literal["done"] = "done"


@dataclass(frozen=True)
class ErrorAnswer:
    """It could not be done."""

    number: int
    error: ErrorWords
    kind: Literal["error"] = "error"


@dataclass(frozen=True)
class Awaiting:
    """What the call that is under way waits for, in words."""

    text: str
    kind: Literal["awaiting"] = "awaiting"


@dataclass(frozen=True)
class RayNoticed:
    """What nobody has asked for."""

    news: RayNews
    kind: Literal["noticed"] = "noticed"


Call = OpenCall | NodesCall | StartCall | EndCall | EndedCall | CloseCall
Answer = OpenAnswer | NodesAnswer | EndedAnswer | DoneAnswer | ErrorAnswer
BackendMessage = BackendSetup | Call | Answer | Awaiting | RayNoticed

_FORM: TypeAdapter[BackendMessage] = TypeAdapter(
    Annotated[BackendMessage, Field(discriminator="kind")]
)


def to_line(message: BackendMessage) -> bytes:
    """One line."""
    return _FORM.dump_json(message) + b"\n"


def from_line(line: bytes) -> BackendMessage:
    """The reverse of `to_line`; ProtocolError for anything else."""
    try:
        return _FORM.validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ProtocolError(f"no message of a backend's process: {problem}") from error
