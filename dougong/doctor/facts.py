"""What a node is asked when it is examined, and what it says. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from dougong.accelerators.telemetry.reading import DeviceReading
from dougong.addresses import Ports
from dougong.control.handshake import FolderTrouble, MachineLimits, PackageCode
from dougong.control.path_messages import PathEnd, PathResult, TryPaths
from dougong.deadlines import Deadlines
from dougong.records.shared_folder import FolderProof

HERE = "this machine (dougong doctor)"
"""Where the command was typed, among the machines whose software is compared."""


@dataclass(frozen=True)
class Post:
    """What a node is to do in a run: so many workers of one island; without a job, of one kind of
    device, called as that is. `num_devices`: how many they use, 0 where they share the machine."""

    name: str
    accelerator: str
    num_workers: int
    threads: int = 1
    deterministic: bool = True
    num_devices: int = 0


@dataclass(frozen=True)
class LookQuestion:
    """What to look at. `towards`: the host whose machine the command runs on, None where it is this
    one; `folder`: where runs lie; `proof`: by which it is shown to be shared, None where there is
    one machine; `files`: of the job, to be looked for; `model_types`: whose source is looked at."""

    name: str
    posts: tuple[Post, ...]
    towards: str | None
    folder: str
    deadlines: Deadlines
    proof: FolderProof | None = None
    files: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    ports: Ports | None = None


@dataclass(frozen=True)
class KindFacts:
    """Devices of one kind. `count`: None where workers share the machine; `name`: what they are
    called; `missing`: what the machine lacks for them; `readings`: their health, by `cuda:0`, and
    `problem`, why there are none; `refused`: variables with which a run is refused; `agreed`: those
    that must be alike on all nodes of an island."""

    accelerator: str
    count: int | None
    name: str
    missing: str = ""
    readings: dict[str, DeviceReading] = field(default_factory=dict)
    problem: str = ""
    refused: tuple[str, ...] = ()
    agreed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkFacts:
    """The interface over which workers speak. `problem`: why there is none; `mtu`: bytes in a
    packet; `mbits_s`: its speed where it says one; `others`: further interfaces that are up;
    `num_free`: how many of the job's ports are free (None: the system chooses), and
    `ports_problem`, why none can be listened on."""

    address: str = ""
    interface: str = ""
    mtu: int | None = None
    mbits_s: int | None = None
    others: tuple[str, ...] = ()
    problem: str = ""
    num_free: int | None = None
    ports_problem: str = ""


@dataclass(frozen=True)
class FolderFacts:
    """Where runs are to lie. `place`: the folder, or the nearest above it that there is; `trouble`:
    why it is not the one that the others see; `problem`: why nothing is known of it, or nothing can
    be written there, and `number`, the system's number for that."""

    place: str
    free_bytes: int | None = None
    total_bytes: int | None = None
    free_inodes: int | None = None
    mount: str = ""
    trouble: FolderTrouble | None = None
    problem: str = ""
    number: int | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What a node is. `host`: what its machine calls itself; `machine`: the same for all nodes of
    one machine, empty where that is not known; `wants_token`: whether Ray there asks for one."""

    host: str
    machine: str
    versions: dict[str, str]
    code: dict[str, PackageCode]
    limits: MachineLimits
    devices: tuple[KindFacts, ...]
    network: NetworkFacts
    folder: FolderFacts
    absent: tuple[str, ...] = ()
    shared_memory_free: int | None = None
    wants_token: bool = False


@dataclass(frozen=True)
class ClockQuestion:
    """What time is it?"""


@dataclass(frozen=True)
class ClockAnswer:
    """`wall_s`: seconds since 1970."""

    wall_s: float


@dataclass(frozen=True)
class DoorsQuestion:
    """Be there to be tried, at `host`, by who knows the token."""

    name: str
    host: str
    token: str
    ports: Ports | None
    deadlines: Deadlines


@dataclass(frozen=True)
class Doors:
    """`end`: where paths are tried; `bulk_port`: where many bytes are taken, on the same host."""

    end: PathEnd
    bulk_port: int


@dataclass(frozen=True)
class PathsQuestion:
    """Try these paths."""

    asked: TryPaths
    token: str
    deadlines: Deadlines


@dataclass(frozen=True)
class PathsAnswer:
    """What came of each."""

    results: tuple[PathResult, ...]


@dataclass(frozen=True)
class LinkQuestion:
    """Send and receive many bytes over one connection, within `link_s`."""

    host: str
    port: int
    token: str
    deadlines: Deadlines


@dataclass(frozen=True)
class LinkAnswer:
    """Both directions as seen from who was asked. `problem`: why there is no figure."""

    latency_s: float = 0.0
    out_bytes_per_s: float = 0.0
    in_bytes_per_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class SpeedQuestion:
    """Measure devices of these posts, in processes with a worker's environment. `precision`: that
    of the job; `with_bits`: hash what they compute, too."""

    posts: tuple[Post, ...]
    precision: str
    with_bits: bool
    deadlines: Deadlines


@dataclass(frozen=True)
class DeviceRequest:
    """To a process that measures: one device, by its kind and number, and the precision in which it
    is to multiply; `with_bits`: hash what it computes, too."""

    accelerator: str
    index: int
    precision: str
    with_bits: bool = True


@dataclass(frozen=True)
class DeviceSpeed:
    """One device. `matmul_flops`: operations a second; `memory_bytes_per_s`: read and written;
    `cpu_share`: which part of the time the measuring thread had a processor, None where the
    processor does not compute; `fingerprint`: of its bits, as JSON has it. `problem`: why nothing
    was measured."""

    accelerator: str
    index: int
    name: str = ""
    matmul_flops: float = 0.0
    memory_bytes_per_s: float = 0.0
    cpu_share: float | None = None
    fingerprint: dict[str, object] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class SpeedAnswer:
    """All devices that were asked for."""

    devices: tuple[DeviceSpeed, ...]


@dataclass(frozen=True)
class StoreQuestion:
    """Write and read a file in this folder, which is deleted then."""

    folder: str


@dataclass(frozen=True)
class StoreAnswer:
    """Bytes a second, flushed to the storage. `problem`: why there is no figure; `number`: the
    system's number for that."""

    write_bytes_per_s: float = 0.0
    read_bytes_per_s: float = 0.0
    problem: str = ""
    number: int | None = None


Asked = TypeVar("Asked")
Told = TypeVar("Told")


@dataclass(frozen=True)
class Question(Generic[Asked, Told]):
    """Something that nodes can be asked, with the forms in which question and answer travel."""

    name: str
    asked: TypeAdapter[Asked]
    told: TypeAdapter[Told]


LOOK = Question("look", TypeAdapter(LookQuestion), TypeAdapter(NodeFacts))
CLOCK = Question("clock", TypeAdapter(ClockQuestion), TypeAdapter(ClockAnswer))
OPEN = Question("open", TypeAdapter(DoorsQuestion), TypeAdapter(Doors))
PATHS = Question("paths", TypeAdapter(PathsQuestion), TypeAdapter(PathsAnswer))
LINK = Question("link", TypeAdapter(LinkQuestion), TypeAdapter(LinkAnswer))
SPEED = Question("speed", TypeAdapter(SpeedQuestion), TypeAdapter(SpeedAnswer))
STORE = Question("store", TypeAdapter(StoreQuestion), TypeAdapter(StoreAnswer))
