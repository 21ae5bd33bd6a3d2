"""What a job asks of each node, and without a job, what can be asked of any. Pure but for the job's
files, which are looked for on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dougong.accelerators.registry import accelerator_names, get_accelerator
from dougong.addresses import Ports
from dougong.deadlines import DEADLINES, Deadlines
from dougong.doctor.facts import Post
from dougong.errors import DeviceError, DougongError
from dougong.job.schema import Job
from dougong.launcher.agent.facts import files_of
from dougong.launcher.agent.here.code import model_types_of
from dougong.launcher.ports import ports_of
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec, lay_out

CPU = "cpu"


@dataclass(frozen=True)
class DoctorRequest:
    """What is to be examined. `job`: None for any job; `quick`: nothing is measured; `run_dir`:
    where the run would lie; `room_bytes`: what its checkpoints take there, 0 where that is not
    known."""

    job: Job | None
    quick: bool
    run_dir: str
    room_bytes: int = 0

    @property
    def deadlines(self) -> Deadlines:
        return DEADLINES if self.job is None else self.job.fault.limits()

    @property
    def ports(self) -> Ports | None:
        """JobError where DOUGONG_PORTS is wrong."""
        return ports_of(self.job)

    @property
    def ports_key(self) -> str:
        """What names them, where anything does."""
        has_own = self.job is not None and self.job.ports is not None
        return "`ports` of the job" if has_own else "DOUGONG_PORTS"

    @property
    def precision(self) -> str:
        return "float32" if self.job is None else self.job.precision

    @property
    def kinds(self) -> tuple[str, ...]:
        """The devices that nodes are asked for."""
        if self.job is not None:
            return tuple(dict.fromkeys(island.accelerator for island in self.job.islands))
        return known_accelerators()

    @property
    def counted_kinds(self) -> tuple[str, ...]:
        """Those of which a machine has so many and no more."""
        return tuple(kind for kind in self.kinds if not get_accelerator(kind).shares_machine)

    @property
    def model_types(self) -> tuple[str, ...]:
        return () if self.job is None else model_types_of(self.job.model, None)

    @property
    def files(self) -> tuple[str, ...]:
        """Those of the job that are on this machine, by paths that mean the same on others."""
        if self.job is None:
            return ()
        return tuple(str(Path(name).absolute()) for name in files_of(self.job, begins=True))


@dataclass(frozen=True)
class Demand:
    """By node's id: what it is to do (`posts`), and the agents that would be there. `problem`: why
    the job finds no room on these nodes."""

    posts: dict[str, tuple[Post, ...]]
    specs: dict[str, tuple[AgentSpec, ...]] = field(default_factory=dict)
    problem: str = ""

    @property
    def num_workers(self) -> int:
        """Of the whole run."""
        posts = itertools.chain.from_iterable(self.posts.values())
        return sum(post.num_workers for post in posts)

    def islands_of(self, node: str) -> tuple[str, ...]:
        """Which islands have workers there."""
        return tuple(dict.fromkeys(post.name for post in self.posts.get(node, ())))


def known_accelerators() -> tuple[str, ...]:
    """Those that this machine can be asked for; what a package offers may not load."""
    return tuple(name for name in accelerator_names() if _loads(name))


def demand_of(request: DoctorRequest, nodes: Sequence[Node], shared: bool) -> Demand:
    """Of these nodes, which answer. `shared`: as in `lay_out`."""
    if request.job is None:
        return Demand({node.id: _posts_of_any(request.kinds, node) for node in nodes})
    try:
        specs = lay_out(request.job.islands, nodes, shared)
    except DougongError as error:
        posts = {node.id: _posts_of_any(request.kinds, node) for node in nodes}
        return Demand(posts, problem=str(error))
    by_node: dict[str, list[AgentSpec]] = {node.id: [] for node in nodes}
    for spec in specs:
        by_node[str(spec.node)].append(spec)
    deterministic = request.job.is_deterministic
    demanded = {}
    for node, there in by_node.items():
        demanded[node] = tuple(_post_of(spec, deterministic) for spec in there if spec.workers)
    return Demand(demanded, {node: tuple(there) for node, there in by_node.items()})


def _post_of(spec: AgentSpec, deterministic: bool) -> Post:
    post = Post(spec.island, spec.accelerator, spec.num_workers, spec.threads, deterministic)
    if get_accelerator(spec.accelerator).shares_machine:
        return post
    return replace(post, num_devices=spec.num_devices)


def _posts_of_any(kinds: Sequence[str], node: Node) -> tuple[Post, ...]:
    """A worker on each device that there is; one on the processor, which any node has."""
    counts = {kind: node.count(kind) for kind in kinds if node.count(kind)}
    posts = [Post(kind, kind, count, num_devices=count) for kind, count in counts.items()]
    if CPU in kinds or not posts:
        posts.append(Post(CPU, CPU, 1))
    return tuple(posts)


def _loads(name: str) -> bool:
    try:
        get_accelerator(name)
    except DeviceError:
        return False
    return True
