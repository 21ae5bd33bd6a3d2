"""The key by which a run's checkpoints are signed, and the file in which it lies."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from dougong.checkpoint.disk import opened, read_file, storage_error, sync_directory, write_at
from dougong.checkpoint.proof.signing import SigningKey
from dougong.errors import CheckpointError, SourceError
from dougong.records.finished import resume_command

OWN = "run"
"""What `checkpoint.sign` says for a key that the run makes for itself."""
OWN_KEY = Path("private", "checkpoints.key")
"""Where that lies, in the run's directory."""
_KEY_BYTES = 32
_MOST_BYTES = 1 << 16
_MAKE = f"`(umask 077; head -c {_KEY_BYTES} /dev/urandom > FILE)`"


def read_key(path: Path) -> SigningKey:
    """The key of a file. SourceError where there is none, others may read it, or it is too short or
    too long for one."""
    try:
        status = path.stat()
        mode = status.st_mode
        # Before it is opened: a device may do anything then.
        if not stat.S_ISREG(mode):
            raise SourceError(
                f"{path}: is {_kind(mode)}, and a key is a file of {_KEY_BYTES} to {_MOST_BYTES} "
                f"bytes of chance; name its file, or make one: {_MAKE}"
            )
        data = read_file(path) if status.st_size <= _MOST_BYTES else b""
    except OSError as error:
        raise SourceError(
            f"{path}: the key cannot be read: {error.strerror}; name its file, or make one: {_MAKE}"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise SourceError(
            f"{path}: others may read or write this key (mode {stat.S_IMODE(mode):04o}): "
            f"`chmod 600 {path}`, and make a new one if somebody may have"
        )
    if len(data) < _KEY_BYTES:
        raise SourceError(
            f"{path}: is no key: a key has {_KEY_BYTES} to {_MOST_BYTES} bytes of chance: {_MAKE}"
        )
    return SigningKey(path, data)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def make_key(path: Path) -> SigningKey:
    """A new key in a new file that its owner alone may read, durable. OSError where storage
    refuses."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    secret = secrets.token_bytes(_KEY_BYTES)
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600) as fd:
        write_at(fd, secret, 0)
        os.fsync(fd)
    sync_directory(path.parent)
    sync_directory(path.parent.parent)
    return SigningKey(path, secret)


def key_of_run(run: Path, sign: str | None, is_new: bool) -> SigningKey | None:
    """The key that a job's `checkpoint.sign` means, for the run in that directory; None: it does
    not sign. `is_new`: the run has not signed before, so that a key of its own is made.

    CheckpointError where there is no such key, or no longer.
    """
    if sign is None:
        return None
    if sign != OWN:
        return read_key(Path(sign).expanduser())
    place = run / OWN_KEY
    try:
        return make_key(place) if is_new and not place.exists() else _own_key(place)
    except OSError as error:
        raise storage_error(place, error, "the key of its checkpoints") from error


def _own_key(place: Path) -> SigningKey:
    if place.exists():
        return read_key(place)
    resume = resume_command(place.parent.parent)
    raise CheckpointError(
        f"{place}: the key that the run's checkpoints are signed with is gone; put it back, or go "
        f"on without: `{resume} -o checkpoint.sign=null`, which checks no signature"
    )
