"""The file in which a key lies by which checkpoints are signed."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shlex
import stat
from pathlib import Path

from dougong.checkpoint.disk import opened, read_file, sync_directory, write_at
from dougong.checkpoint.proof.signing import SigningKey
from dougong.errors import SourceError
from dougong.job.schema import OWN_SIGNING_KEY

_KEY_BYTES = 32
_MOST_BYTES = 1 << 16
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MAKE_KEY = f"(umask 077; head -c {_KEY_BYTES} /dev/urandom > FILE)"
"""The command that makes one."""


def read_key(path: Path, within: Path | None = None) -> SigningKey:
    """The key of a file. SourceError where there is none, it is another user's, others may read it
    or put another one in its place, or it is none. `within`: a folder that was looked at, with
    those above it: only folders below it are."""
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
    if status.st_uid not in (os.geteuid(), 0):
        raise SourceError(
            f"{path}: this key belongs to {_name_of(status.st_uid)}, who can read and change it; "
            f"make one of your own: `{MAKE_KEY}`"
        )
    if stat.S_IMODE(mode) & 0o077:
        raise SourceError(
            f"{path}: others may read or write this key (mode {stat.S_IMODE(mode):04o}): "
            f"`chmod 600 {path}`, and make a new one if somebody may have"
        )
    _refuse_open_folders(path, within)
    if len(data) < _KEY_BYTES:
        raise SourceError(
            f"{path}: is no key: a key has {_KEY_BYTES} to {_MOST_BYTES} bytes of chance: "
            f"`{MAKE_KEY}`"
        )
    if len(set(data)) == 1:
        raise SourceError(
            f"{path}: is no key: it holds one byte again and again, and a key is bytes of chance: "
            f"`{MAKE_KEY}`"
        )
    return SigningKey(path, data)


def _refuse_open_folders(path: Path, within: Path | None) -> None:
    """SourceError where other users may write in a folder on the way to the key: they can put one
    of theirs in its place. In one with the sticky bit, as /tmp, what is yours stays."""
    known = set() if within is None else _folders_of(within / path.name)
    for folder in sorted(_folders_of(path) - known):
        status = folder.stat()
        mode, others = status.st_mode, f"{path}: others may put another key in its place"
        if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            raise SourceError(
                f"{others}: they may write in {folder} (mode {stat.S_IMODE(mode):04o}): "
                f"`chmod go-w {shlex.quote(str(folder))}`, or keep it in a folder of your own"
            )
        is_its_own = folder in (path.absolute().parent, path.resolve().parent)
        if is_its_own and status.st_uid not in (os.geteuid(), 0):
            owner = _name_of(status.st_uid)
            raise SourceError(
                f"{others}: {folder} belongs to {owner}; keep it in a folder of your own"
            )


def _folders_of(path: Path) -> set[Path]:
    """All folders that lead to a file, by its name and by where links lead."""
    return {*path.absolute().parents, *path.resolve().parents}


def _name_of(uid: int) -> str:
    with contextlib.suppress(KeyError):  # of another machine, or gone
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


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
