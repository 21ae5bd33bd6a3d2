"""Making a run's folder and its files. Replacing a small file is one step: a reader sees the old
text or the new one, never half."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from dougong.errors import PlaceError, StorageError

ROOM = "make room or mend it, then go on with the run"
"""The remedy of whatever cannot be written."""
_TRIED_BYTES = 1 << 16
"""Written and taken back to see whether a folder takes anything."""


def replace_file(path: Path, text: str, mode: int = 0o666, durable: bool = False) -> None:
    """Put `text` where `path` is, in one rename.

    The new file has `mode` (less the umask) from its first byte on. `durable`: its bytes are on
    storage before it takes the old one's place. OSError when it cannot be written; the old file
    stands then as it was, and nothing is left beside it.
    """
    # Processes and threads may replace the same file at once: each has a name of its own, in the
    # same folder, because a rename is one step only within a file system.
    # Nobody can have put a file or a link there, where others may write too: the name is guessed by
    # none, and is never one that is there.
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        _write_file(new, text.encode(), mode, durable)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def last_line(path: Path) -> str | None:
    """The last line of a log that is not blank, empty where there is none; None where it cannot be
    read."""
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return None
    return lines[-1] if lines else ""


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: one `write` may take only a part of them."""
    while data:
        written = os.write(fd, data)
        data = data[written:]


def _write_file(path: Path, data: bytes, mode: int, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def make_run_folder(path: Path) -> None:
    """Make the folder of a run, where it is not there yet. PlaceError when something else is there,
    StorageError when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PlaceError(_in_the_way(path)) from error
    except OSError as error:
        raise cannot_begin(path, error) from error


def exposed_words(path: Path) -> str:
    """What a person should know of a run's folder, or one above it, in which other users of the
    machine may write: they could put a run of theirs in its place. Empty for nothing."""
    for folder in (path, *path.absolute().parents):
        try:
            found = folder.stat()
        except OSError:
            continue
        is_kept = found.st_mode & stat.S_ISVTX and folder != path  # /tmp: own names are one's own
        if found.st_mode & stat.S_IWOTH and not is_kept:
            return (
                f"{folder}: every user of this machine may write there, and so into the run: its "
                f"record, its checkpoints; chmod o-w {folder}"
            )
    return ""


def why_not_writable(path: Path) -> str:
    """Why nothing could be made at `path` or below it, in words after its name; empty where it
    could: a little is written there, and nothing stays."""
    there = nearest_place(path)
    if not there.is_dir():
        return no_folder_words(there)
    refusal = refusal_to_write(there)
    return "" if refusal is None else f"{there} cannot be written: {refusal.strerror}"


def nearest_place(path: Path) -> Path:
    """The path, or the nearest above it at which there is anything, a link to nothing included."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def no_folder_words(place: Path) -> str:
    """What lies there, where it is no folder."""
    if place.is_symlink() and not place.exists():
        return f"{place} is a link to {os.readlink(place)}, which is not there"
    return f"{place} is not a folder"


def refusal_to_write(folder: Path) -> OSError | None:
    """Why nothing can be written in a folder that is there; None where it can: a little is written,
    and nothing stays."""
    # Permissions do not tell: root passes them, and neither a full disk nor /proc is asked by them.
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".dougong-") as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def is_empty_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one, in which nothing lies yet: somebody has made it, or
    mounted it, for what is to come."""
    return path.is_dir() and all(entry.name == "lost+found" for entry in path.iterdir())


def _in_the_way(path: Path) -> str:
    """What stands where a directory was to be made: the path itself or one above it."""
    place = nearest_place(path)
    if place.is_symlink() and not place.exists():
        return f"{path}: {no_folder_words(place)}; mount it, or pass another --run-dir"
    return f"{place}: a file lies there; pass another --run-dir"


def cannot_begin(path: Path, error: OSError) -> StorageError:
    """Why there can be no run in `path`."""
    return StorageError(
        f"{path}: a run cannot be written there: {error.strerror}; make room or mend it, or pass "
        "another --run-dir"
    )


def create_file(path: Path) -> bool:
    """Whether it was us who made the file: of two claims at once one finds it there."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    os.close(fd)
    return True
