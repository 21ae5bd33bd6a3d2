"""What a run has left behind on this machine: nothing, if all is well."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable
from pathlib import Path

MARK = "DOUGONG_DRILL_MARK"
"""A variable that all processes of a rehearsed run inherit."""

_SHARED_MEMORY = Path("/dev/shm")


def marked_processes(mark: str) -> dict[int, str]:
    """Living processes that carry the mark, with their command lines."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is a zombie
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = words.decode(errors="replace").strip()
    return found


def shared_memory() -> frozenset[str]:
    """Names of this machine's shared-memory files."""
    with contextlib.suppress(OSError):
        return frozenset(path.name for path in _SHARED_MEMORY.iterdir())
    return frozenset()


def sockets_in(folder: Path) -> list[str]:
    """Socket files below a folder."""
    return [str(path) for path in folder.rglob("*") if _is_socket(path)]


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def namespaces_of(pids: Iterable[int]) -> frozenset[str]:
    """Namespaces in which these processes live and this one does not."""
    here = _namespaces("self")
    return frozenset().union(*(_namespaces(str(pid)) for pid in pids)) - here


def _namespaces(process: str) -> frozenset[str]:
    try:
        links = [path.readlink() for path in (Path("/proc") / process / "ns").iterdir()]
    except OSError:
        return frozenset()
    return frozenset(map(str, links))


def left_behind(mark: str, folder: Path, shared_before: frozenset[str]) -> list[str]:
    """What is left, in words. Of shared memory that has appeared meanwhile, what a living process
    holds is somebody else's: none of ours lives."""
    processes = marked_processes(mark)
    left = [f"process {pid}: {words}" for pid, words in processes.items()]
    left += [f"namespace {name}" for name in sorted(namespaces_of(processes))]
    left += [f"socket {path}" for path in sockets_in(folder)]
    new = shared_memory() - shared_before
    left += [f"shared memory {name}" for name in sorted(new) if _is_orphan(name)]
    return left


def _is_orphan(name: str) -> bool:
    """Whether nobody maps it, as /proc tells. Semaphores of Python's own are never ours, and are
    nobody's for a moment while they are made."""
    if name.startswith("sem."):
        return False
    wanted = str(_SHARED_MEMORY / name)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "maps").read_text():
                return False
    return (_SHARED_MEMORY / name).exists()
