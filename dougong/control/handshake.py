"""How a peer proves itself to the controller, and what an agent says of itself meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Challenge:
    """The controller's first word: prove that you know the token for this nonce."""

    nonce: str
    kind: Literal["challenge"] = "challenge"


@dataclass(frozen=True)
class AgentFacts:
    """What an agent says of itself. `devices`: None where any number of workers fits;
    `memory_bytes`: of one device, of all that the machine may give where workers share it, None
    where it is not known."""

    agent: str
    island: str
    node: str
    pid: int
    accelerator: str
    devices: int | None
    versions: dict[str, str]
    environment: dict[str, str]
    sees_run_dir: bool
    ray_node: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Hello:
    """The answer to the challenge, and a nonce for the controller. `agent`: None for a client."""

    proof: str
    nonce: str
    agent: AgentFacts | None = None
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True)
class Welcome:
    """The controller's own proof."""

    proof: str
    kind: Literal["welcome"] = "welcome"
