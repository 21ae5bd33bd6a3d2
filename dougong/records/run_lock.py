"""Who writes into a run directory: one process at a time, by a lock that ends with the process.

The file `RUN/controller.lock` is locked by the controller for its life, and the kernel takes the
lock from a process that dies. Nothing is asked of a process that is stopped or hung, so that its
silence is not taken for its death. File systems for clusters carry such a lock between machines as
a rule; where one knows none, `is_exclusive` says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import AliveError, StorageError
from dougong.records.files import ROOM, write_all

LOCK_FILE = "controller.lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems that know no locks answer."""
_TRIES = 5


class Holder(BaseModel):
    """The process that holds the lock, or held it last."""

    model_config = ConfigDict(frozen=True)

    machine: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine}"


class RunLock:
    """The lock of one run directory, held until `release` or the process's end."""

    def __init__(self, fd: int, is_exclusive: bool) -> None:
        self.is_exclusive = is_exclusive
        self._fd = fd

    def release(self) -> None:
        """Let it go. The file stays: two processes that made it anew would hold two locks."""
        os.close(self._fd)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def take_lock(run: Path, deadlines: Deadlines = DEADLINES) -> RunLock:
    """Claim the directory for this process. AliveError names the process that has it; StorageError
    where nothing can be written."""
    fd = _open(run / LOCK_FILE)
    try:
        is_exclusive = _lock(fd, deadlines)
    except BlockingIOError as error:
        os.close(fd)
        who = f"controller {read_holder(run)}"
        raise AliveError(
            f"{run}: this run is alive ({who}); `dougong stop {run}` ends it"
        ) from error
    _sign(fd)
    return RunLock(fd, is_exclusive)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}; {ROOM}") from error


def _sign(fd: int) -> None:
    """Say who holds the lock. It is only told: the lock holds also on a full disk."""
    me = Holder(machine=socket.gethostname(), pid=os.getpid())
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        write_all(fd, me.model_dump_json().encode())


def is_locked(run: Path) -> bool | None:
    """Whether a process holds the lock; None where that cannot be known."""
    try:
        fd = os.open(run / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False


def read_holder(run: Path) -> str:
    """The process that holds the lock or held it last, in words."""
    try:
        return str(Holder.model_validate_json((run / LOCK_FILE).read_text()))
    except (OSError, ValidationError):
        return "of an unknown process"


def _lock(fd: int, deadlines: Deadlines) -> bool:
    """Whether the lock is ours alone; False where there are none. BlockingIOError when another has
    it."""
    for attempt in range(1, _TRIES + 1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Whoever only looks (`is_locked`) has it for an instant.
            if attempt == _TRIES:
                raise
            time.sleep(deadlines.lock_retry_s)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        else:
            return True
    raise AssertionError("the last attempt returns or raises")
