"""How a peer proves itself to the controller, and what an agent says of itself meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Challenge:
    """The controller's first word: prove that you know the token for this nonce."""

    nonce: str
    kind: Literal["challenge"] = "challenge"


FolderFault = Literal["absent", "other", "unreadable", "unwritable", "unanswered"]
"""What may be wrong with a folder on a machine: it is not there; another one has its name; it
cannot be read; it cannot be written; what is written into it there is not seen here."""


@dataclass(frozen=True)
class FolderTrouble:
    """Why a folder of the run directory cannot serve on an agent's machine. `reason`: the system's
    words, and `number` its errno, where it said any; `user`: the number of the user who tried;
    `mount`: what is mounted there, such as `nfs4 nas:/export`, and `mount_here`, on the
    controller's machine."""

    folder: str
    fault: FolderFault
    reason: str = ""
    number: int | None = None
    user: int | None = None
    mount: str = ""
    mount_here: str = ""


@dataclass(frozen=True)
class PackageCode:
    """The source of a package on a machine: where it lies (empty: nowhere), and a digest for each
    of its folders, such as `dougong/training/optimizers`."""

    place: str
    digests: dict[str, str]


@dataclass(frozen=True)
class MachineLimits:
    """What an agent's processes may take of their machine. None where there is no limit, or it is
    not known. `cpus`: how many may be used at once; `memory_bytes`: the machine's, or its control
    group's; `free_memory_bytes`: of that at the moment; `shared_memory_bytes`: the size of
    /dev/shm; `locked_memory_bytes`: may be pinned."""

    cpus: int | None = None
    memory_bytes: int | None = None
    free_memory_bytes: int | None = None
    open_files: int | None = None
    processes: int | None = None
    shared_memory_bytes: int | None = None
    locked_memory_bytes: int | None = None


@dataclass(frozen=True)
class KeptWorker:
    """A worker that has outlived its controller: its process, and the newest step that it holds in
    memory, 0 for none."""

    pid: int
    step: int


@dataclass(frozen=True)
class AgentFacts:
    """What an agent says of itself. `devices`: None where any number of workers fits;
    `memory_bytes`: of one device, of all that the machine may give where workers share it, None
    where it is not known; `code`: the source that computes, by package; `trouble`: why the run
    directory cannot serve there; `fence`: the number of the controller that has started it;
    `absent`: files and folders of the job that are not there; `device`: what the devices there are
    called; `kept`: its workers, by name, that wait for this controller's first generation."""

    agent: str
    island: str
    node: str
    pid: int
    accelerator: str
    devices: int | None
    versions: dict[str, str]
    environment: dict[str, str]
    ray_node: str | None = None
    memory_bytes: int | None = None
    code: dict[str, PackageCode] = field(default_factory=dict)
    trouble: FolderTrouble | None = None
    limits: MachineLimits = MachineLimits()
    fence: int = 0
    absent: tuple[str, ...] = ()
    device: str = ""
    kept: dict[str, KeptWorker] = field(default_factory=dict)


@dataclass(frozen=True)
class Hello:
    """The answer to the challenge, and a nonce for the controller. `agent`: None for a client;
    `wall_s`: the sender's clock, seconds since 1970."""

    proof: str
    nonce: str
    agent: AgentFacts | None = None
    wall_s: float = 0.0
    kind: Literal["hello"] = "hello"


@dataclass(frozen=True)
class Welcome:
    """The controller's own proof. `fence`: its number among those of the run."""

    proof: str
    fence: int = 0
    kind: Literal["welcome"] = "welcome"
