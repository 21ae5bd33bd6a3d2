"""Bytes to disk and back, with digests. Imports no torch: a checkpoint is verified without it.

A digest is blake2b with 16 bytes, in hex (RFC 7693; `hashlib` releases the interpreter lock on
large inputs).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dougong.errors import CheckpointError

CHUNK_BYTES = 8 << 20
MOST_SMALL_BYTES = 1 << 29
"""Of a file that is read whole: ten times the manifest of a model of a trillion parameters."""
ROOM = "free some, or lower checkpoint.keep"
"""What a run does for space on its disk."""
_NO_STORAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What is said of names, not by storage that is ill: it stays so until somebody changes a file."""

Buffer = bytes | bytearray | memoryview
See = Callable[[memoryview], None]


def _see_nothing(piece: memoryview) -> None:
    """Where the digest is all."""


def digest(data: Buffer) -> str:
    """The digest of bytes in memory."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_range(fd: int, offset: int, num_bytes: int, see: See = _see_nothing) -> str:
    """The digest of a byte range of an open file. A file that ends early raises
    `CheckpointError`. `see` is shown the bytes, piece by piece, each but the last `CHUNK_BYTES`
    long."""
    state = hashlib.blake2b(digest_size=16)
    buffer = memoryview(bytearray(min(num_bytes, CHUNK_BYTES)))
    while num_bytes > 0:
        part = buffer[: min(num_bytes, CHUNK_BYTES)]
        read_into(fd, part, offset)
        state.update(part)
        see(part)
        offset += len(part)
        num_bytes -= len(part)
    return state.hexdigest()


def read_into(fd: int, view: memoryview, offset: int) -> None:
    """Fill `view` from `offset`. A file that ends early raises `CheckpointError`."""
    while view.nbytes:
        # One call may give less than was asked for, on any file system, without an error.
        got = os.preadv(fd, [view], offset)
        if got == 0:
            raise CheckpointError(
                f"the file ends at byte {offset}, {view.nbytes} bytes early; it was truncated"
            )
        view = view[got:]
        offset += got


def write_at(fd: int, view: Buffer, offset: int) -> None:
    """Write all of `view` at `offset`."""
    rest = memoryview(view)
    while rest.nbytes:
        put = os.pwrite(fd, rest, offset)
        rest = rest[put:]
        offset += put


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> Iterator[int]:
    """An open descriptor of `path`, closed at the end. Raises as `open_file`."""
    fd = open_file(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def open_file(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """An open descriptor of `path`, for the caller to close. `mode`: of a file that is made.
    CheckpointError where that is to be read and is neither a file nor a directory: a pipe would be
    waited for, and a device has no end."""
    # O_NONBLOCK: to open a pipe that nobody writes to waits; for files it means nothing.
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    kind = os.fstat(fd).st_mode
    reads = flags & os.O_ACCMODE == os.O_RDONLY
    if reads and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        os.close(fd)
        raise CheckpointError(f"{path}: is no file, but {_kind(kind)}")
    return fd


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_file(path: Path, most_bytes: int = MOST_SMALL_BYTES) -> bytes:
    """All bytes of a small file. OSError where it cannot be read, CheckpointError where it is
    none, or larger than `most_bytes`."""
    with opened(path) as fd:
        size = os.fstat(fd).st_size
        # It may be a hole of any size: nobody is to hold that in memory.
        if size > most_bytes:
            raise CheckpointError(f"{path}: has {size} bytes, such a file at most {most_bytes}")
        data = bytearray(size)
        read_into(fd, memoryview(data), 0)
    return bytes(data)


def sync_file(fd: int) -> None:
    """Make a file durable and drop it from the page cache, so that what is read next comes from
    storage."""
    os.fsync(fd)
    # Pages that are not yet written cannot be dropped, hence after fsync; macOS has no such call.
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def write_new(path: Path, data: bytes) -> None:
    """Write a small file that must not exist yet, durably."""
    # O_EXCL: whoever finds the name taken is told so, and never writes into another's file.
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        write_at(fd, data, 0)
        os.fsync(fd)


def is_refused(error: BaseException) -> bool:
    """Whether an error is storage that does not give or take something now, of which nothing is
    known then; and not something that is missing, or damaged."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno not in _NO_STORAGE


def storage_error(
    path: Path, error: OSError, what: str = "a checkpoint", room: str = ROOM
) -> CheckpointError:
    """What a user reads when storage refuses: the place, the numbers, the remedy. `what` was to be
    written; `room`: what helps where there is no space."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(f"{path}: no space left to write {what}{_free_words(path)}; {room}")
    above = next((place for place in path.parents if os.path.lexists(place)), path)
    blocked = in_the_way(above)
    if blocked:
        return CheckpointError(f"{above}: {blocked}, then go on")
    if error.errno == errno.EEXIST:
        return CheckpointError(
            f"{path}: exists already; a directory of one step and generation is never written twice"
        )
    return CheckpointError(f"{path}: {error.strerror or error}; mend the storage, then go on")


def in_the_way(place: Path) -> str:
    """What stands where a folder must be, in words after its name, and what to do; empty where a
    folder is there, or nothing."""
    if place.is_dir() or not os.path.lexists(place):
        return ""
    if place.exists():
        return "a file lies where a folder must be; move it away and put the folder back"
    return f"is a link to {os.readlink(place)}, which is not there; mount it, or mend the link"


def _free_words(path: Path) -> str:
    try:
        while not path.exists():
            path = path.parent
        space = os.statvfs(path)
    except OSError:
        return ""
    return f" ({space.f_bavail * space.f_frsize} bytes free)"
