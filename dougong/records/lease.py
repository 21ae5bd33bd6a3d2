"""Who is the controller of a run: the holder of the newest lease, and its number.

    RUN/lease/1  2  3 ...   one file for each controller that the run has had; never deleted
    RUN/lease/3.address     how clients reach the third (`RunDir.write_controller`)

A number is taken by `link`: a process writes a file under a name of its own and links it to
`lease/N`. The server of the file system makes or refuses a link in one step, so that of all who ask
for a number one has it. A reply may be lost on its way over NFS, and the answer to the repeated
request is "it is there already" although the first one made it; so not the answer decides, but
whether our own file has two names now.

The holder writes its file anew every `lease_renew_s`, in a thread of its own: storage that stalls
holds up nobody else. Whoever wants the run after it looks at the file: it says that the holder has
ended; or names a process of this machine that is no more; or it stays as it is for `lease_s` by the
looker's own monotonic clock (no clocks are compared). Then the next number may be taken.

A lease does not stop its former holder: it may have been asleep, and a look before each write
fences nothing, since it may fall asleep again between the look and the write. What it still writes
bears its number, by which readers pass over it; docs/design/one-controller.md says how, file by
file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError

from dougong.control.processes import process_start, process_table
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import AliveError, StorageError
from dougong.records.files import ROOM, write_all

LEASES = "lease"
MOST_LEASE_BYTES = 1 << 20
"""What is read of a lease; one has a few hundred."""
_RECORD_BYTES = 512
"""All renewals have one size: a reader never meets the end of an older one."""

Link = Callable[[Path, Path], None]


class Holder(BaseModel):
    """A lease's file. `fence`: its number; `table`: the process table that `pid` is of, and
    `started` tells it from a later process of that number; `beat` counts the renewals."""

    model_config = ConfigDict(frozen=True)

    fence: int
    machine: str
    table: str
    pid: int
    started: int
    beat: int = 0
    ended: bool = False

    @staticmethod
    def here(fence: int) -> Holder:
        """This process."""
        pid = os.getpid()
        machine, table = socket.gethostname(), process_table()
        return Holder(
            fence=fence, machine=machine, table=table, pid=pid, started=process_start(pid) or 0
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine}"

    @property
    def is_here(self) -> bool:
        """Whether its process can be looked for on this machine."""
        return (self.machine, self.table) == (socket.gethostname(), process_table())

    @property
    def is_past(self) -> bool:
        """Whether it certainly writes no more: it has said so, or its process is gone."""
        if self.ended:
            return True
        return self.is_here and process_start(self.pid) != self.started

    def to_bytes(self) -> bytes:
        return self.model_dump_json().encode().ljust(_RECORD_BYTES - 1) + b"\n"


@dataclass(frozen=True)
class LeaseSight:
    """A lease as it is seen. `holder`: None where the file cannot be understood, such as one that
    is just being written."""

    fence: int
    data: bytes
    holder: Holder | None

    @property
    def is_past(self) -> bool:
        return self.holder is not None and self.holder.is_past

    def __str__(self) -> str:
        return "an unknown process" if self.holder is None else str(self.holder)


def newest_fence(run: Path) -> int:
    """The highest number that has been taken; 0: none. StorageError where it cannot be read."""
    try:
        names = os.listdir(run / LEASES)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StorageError(f"{run / LEASES}: cannot be read: {error.strerror}; {ROOM}") from error
    return max((int(name) for name in names if name.isdecimal()), default=0)


def see_lease(run: Path, fence: int) -> LeaseSight:
    """The lease of this number. StorageError where it cannot be read."""
    path = run / LEASES / str(fence)
    try:
        # NFS asks the server whether a file has changed when it is opened, and only then.
        with path.open("rb") as opened:
            data = opened.read(MOST_LEASE_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; {ROOM}") from error
    try:
        return LeaseSight(fence, data, Holder.model_validate_json(data))
    except ValidationError:
        return LeaseSight(fence, data, None)


def see_newest(run: Path) -> LeaseSight | None:
    """The newest lease; None where there is none, as of a run of an earlier release."""
    fence = newest_fence(run)
    return see_lease(run, fence) if fence else None


def are_past(run: Path, first: int, last: int) -> bool:
    """Whether the holders of all these numbers certainly write no more. One that cannot be read may
    be alive."""
    with contextlib.suppress(StorageError):
        return all(see_lease(run, fence).is_past for fence in range(first, last + 1))
    return False


def has_moved(run: Path, seen: LeaseSight, within_s: float, every_s: float) -> bool:
    """Whether the lease is renewed, or a higher number taken, while we look for so long."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        time.sleep(every_s)
        if newest_fence(run) > seen.fence or see_lease(run, seen.fence).data != seen.data:
            return True
    return False


def take_lease(
    run: Path,
    deadlines: Deadlines = DEADLINES,
    takes_over: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    beyond: int = 0,
) -> Lease:
    """Become the run's controller, before anything else is written there. `takes_over`: somebody
    knows that the one before is dead, and its lease need not run out. `tell`: is called with what
    is waited for. `beyond`: the highest number in the run's record: where leases have been lost,
    what is written by a lower one would be passed over.

    AliveError names the process that has the run, or was quicker; StorageError where nothing can be
    written.
    """
    before = see_newest(run)
    if before is not None and not before.is_past and not takes_over:
        _await_expiry(run, before, deadlines, tell)
    fence = max(beyond, 0 if before is None else before.fence) + 1
    folder, me = run / LEASES, Holder.here(fence)
    try:
        folder.mkdir(exist_ok=True)
        is_mine = take_number(folder, me)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}; {ROOM}") from error
    if not is_mine:
        raise AliveError(
            f"{run}: another command has just taken this run ({see_lease(run, fence)}); `dougong "
            f"stop {run}` ends it"
        )
    return Lease(folder, me, deadlines)


def _await_expiry(
    run: Path, seen: LeaseSight, deadlines: Deadlines, tell: Callable[[str], None]
) -> None:
    """Until it is certain enough that the holder acts no more: see the module's words."""
    if has_moved(run, seen, deadlines.status_fresh_s, deadlines.poll_every_s):
        raise _alive(run, seen)
    rest_s = deadlines.lease_s - deadlines.status_fresh_s
    tell(f"{run}: its controller ({seen}) does not renew its lease; it runs out in {rest_s:g} s")
    if has_moved(run, seen, rest_s, deadlines.poll_every_s):
        raise _alive(run, seen)


def _alive(run: Path, seen: LeaseSight) -> AliveError:
    return AliveError(f"{run}: this run is alive (controller {seen}); `dougong stop {run}` ends it")


def take_number(folder: Path, holder: Holder, link: Link = os.link) -> bool:
    """Whether this number is ours now: of all who ask for it at once, one is told so. OSError where
    nothing can be written."""
    own = folder / f".{holder.machine}.{holder.pid}.{secrets.token_hex(8)}"
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, holder.to_bytes())
        os.fsync(fd)
        try:
            link(own, folder / str(holder.fence))
        except OSError:
            # It may have been made even so, and the reply been lost: see below. What cannot be
            # linked at all, such as on a file system without links, is told by an error.
            if _num_names(own) != 2 and not (folder / str(holder.fence)).exists():
                raise
        return _num_names(own) == 2
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            own.unlink()


def _num_names(path: Path) -> int:
    # By a new descriptor: NFS asks the server when a file is opened.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_nlink
    finally:
        os.close(fd)


class Lease:
    """A lease of this process, renewed until `release` or the process's end."""

    def __init__(self, folder: Path, holder: Holder, deadlines: Deadlines) -> None:
        self._folder, self._holder, self._deadlines = folder, holder, deadlines
        self._over = threading.Event()
        self._on_lost: Callable[[str], None] = lambda successor: None
        self._successor: str | None = None
        self._told = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="dougong-lease", daemon=True)
        self._thread.start()

    @property
    def fence(self) -> int:
        """The number."""
        return self._holder.fence

    def when_lost(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with the successor in words, in the lease's own thread, once somebody has
        taken a higher number; now, when that has happened already."""
        with self._told:
            self._on_lost = tell
            if self._successor is not None:
                tell(self._successor)

    def release(self) -> None:
        """Say that this process writes no more. No error when that cannot be said: others find it
        out by their clock."""
        self._over.set()
        # The thread may be held by storage that stalls: so would we be.
        self._thread.join(self._deadlines.exit_status_s)
        if not self._thread.is_alive():
            self._write(self._holder.model_copy(update={"ended": True}))

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._over.wait(self._deadlines.lease_renew_s):
            # Each look and each write by itself: what cannot be read now may be written yet.
            successor = self._find_successor()
            if successor is not None:
                with self._told:
                    self._successor = successor
                    self._on_lost(successor)
                return
            self._holder = self._holder.model_copy(update={"beat": self._holder.beat + 1})
            self._write(self._holder)

    def _find_successor(self) -> str | None:
        """Who has a higher number, in words; None where nobody has, or it cannot be read."""
        run = self._folder.parent
        try:
            newest = newest_fence(run)
            if newest <= self.fence:
                return None
            return f"controller {newest} ({see_lease(run, newest)})"
        except StorageError:
            return None

    def _write(self, holder: Holder) -> None:
        path = self._folder / str(holder.fence)
        with contextlib.suppress(OSError):
            # Opened and closed each time: NFS sends what was written when a file is closed. Never
            # made anew: a run directory that was moved away is nobody's.
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(fd, holder.to_bytes(), 0)
            finally:
                os.close(fd)
