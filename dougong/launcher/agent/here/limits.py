"""What the processes of an agent may take of their machine, found without starting any."""

from __future__ import annotations

import os
import resource

from dougong.control.handshake import MachineLimits
from dougong.control.processes import (
    free_memory_bytes,
    free_processes,
    memory_bytes,
    usable_cpus,
)

_SHARED_MEMORY = "/dev/shm"


def find_limits() -> MachineLimits:
    """As this process has them; its workers inherit them."""
    return MachineLimits(
        cpus=usable_cpus(),
        memory_bytes=memory_bytes(),
        free_memory_bytes=free_memory_bytes(),
        open_files=_limit(resource.RLIMIT_NOFILE),
        processes=_processes(),
        shared_memory_bytes=_shared_memory_bytes(),
        locked_memory_bytes=_limit(getattr(resource, "RLIMIT_MEMLOCK", None)),
    )


def _limit(kind: int | None) -> int | None:
    """The limit that holds; None where there is none."""
    if kind is None:  # a system without it
        return None
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _processes() -> int | None:
    """What this user may have, or the control group may still begin, whichever is less."""
    # The system does not hold root to its own limit.
    of_user = None if os.geteuid() == 0 else _limit(getattr(resource, "RLIMIT_NPROC", None))
    found = [number for number in (of_user, free_processes()) if number is not None]
    return min(found, default=None)


def _shared_memory_bytes() -> int | None:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:  # a system that keeps it elsewhere
        return None
    return found.f_frsize * found.f_blocks
