"""How many files and connections a process may have open: raised as far as the system lets us, and
a run that needs more is refused before it begins, with the numbers."""

from __future__ import annotations

import resource

from dougong.errors import LaunchError
from dougong.remarks import NOTHING, Remarks

MOST = 1 << 18
"""To more than this no limit is raised: no run needs so many, and programs that a worker starts may
look at each."""
_MESHES = 4
"""Each worker has so many connections to each other one: four groups of gloo's, all with all."""
_OF_WORKER = 56
_USUAL = 1024
"""The soft limit of most systems: below it nobody needs to think of it."""
_OF_CONTROLLER = 200


def raise_open_files() -> None:
    """From now on this process, and what it starts, may have as many open as the hard limit says,
    up to `MOST`. What is allowed already stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def open_files_here() -> int | None:
    """How many this process may have; None: there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def needed_by_worker(num_workers: int) -> int:
    """The least that a worker of a run of so many has open."""
    return _MESHES * (num_workers - 1) + _OF_WORKER


def remarks_on_open_files(num_workers: int) -> Remarks:
    """What a plan says of a run whose workers need more than is usual, by what a process of this
    machine could have."""
    needed = needed_by_worker(num_workers)
    if needed <= _USUAL:
        return NOTHING
    words = f"each worker has {needed:,} files and connections open ({_MESHES} to each other one)"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return Remarks((f"{words}; a process of this machine may have that many",))
    refused = f"the hard limit of this machine is {hard:,}, and a run with such nodes is refused"
    return Remarks(warnings=(f"{words}; {refused}: {_how(needed)}",))


def refuse_workers(node: str, num_workers: int, open_files: int | None) -> None:
    """LaunchError where workers of a node may have fewer open than their connections to all others
    take. `open_files`: what its agent has, after it has raised its own limit."""
    needed = needed_by_worker(num_workers)
    if open_files is None or open_files >= needed:
        return
    raise LaunchError(
        f"a process on {node} may have {open_files} files and connections open, which is its hard "
        f"limit, and a worker of a run with {num_workers} workers needs {needed} ({_MESHES} "
        f"connections to each other worker); {_how(needed)} there, or lower islands.*.workers"
    )


def refuse_agents(num_agents: int, open_files: int | None) -> None:
    """LaunchError where the controller may have fewer open than so many agents need."""
    needed = num_agents + _OF_CONTROLLER
    if open_files is None or open_files >= needed:
        return
    raise LaunchError(
        f"this process may have {open_files} files and connections open, which is its hard limit, "
        f"and the controller of {num_agents} agents needs {needed}; {_how(needed)} here"
    )


def _how(needed: int) -> str:
    return (
        f"raise it (`ulimit -Hn {2 * needed}` as root, LimitNOFILE= of a service, --ulimit nofile= "
        "of a container)"
    )
