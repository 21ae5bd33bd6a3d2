"""The file in which a key lies by which checkpoints are signed."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from dougong.checkpoint.disk import opened, read_file, sync_directory, write_at
from dougong.checkpoint.proof.signing import SigningKey
from dougong.errors import SourceError
from dougong.job.schema import OWN_SIGNING_KEY

_KEY_BYTES = 32
_MOST_BYTES = 1 << 16
MAKE_KEY = f"(umask 077; head -c {_KEY_BYTES} /dev/urandom > FILE)"
"""The command that makes one."""


def read_key(path: Path) -> SigningKey:
    """The key of a file. SourceError where there is none, others may read it, or it is too
    short or too long for one."""
    try:
        status = path.stat()
        mode = status.st_mode
        # Before it is opened: a device may do anything then.
        if not stat.S_ISREG(mode):
            raise SourceError(
                f"{path}: is {_kind(mode)}, and a key is a file of {_KEY_BYTES} to {_MOST_BYTES} "
                f"bytes of chance; name its file, or make one: `{MAKE_KEY}`"
            )
        data = read_file(path) if status.st_size <= _MOST_BYTES else b""
    except OSError as error:
        raise SourceError(
            f"{path}: the key cannot be read: {error.strerror}; name its file, or make one: "
            f"`{MAKE_KEY}`"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise SourceError(
            f"{path}: others may read or write this key (mode {stat.S_IMODE(mode):04o}): "
            f"`chmod 600 {path}`, and make a new one if somebody may have"
        )
    if len(data) < _KEY_BYTES:
        raise SourceError(
            f"{path}: is no key: a key has {_KEY_BYTES} to {_MOST_BYTES} bytes of chance: "
            f"`{MAKE_KEY}`"
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


def named_key(sign: str | None) -> SigningKey | None:
    """The key of the file that a job's `checkpoint.sign` names; None where it names none.
    SourceError as `read_key`."""
    if sign is None or sign == OWN_SIGNING_KEY:
        return None
    return read_key(Path(sign).expanduser())
