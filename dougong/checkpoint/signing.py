"""A checkpoint's signature: by a key, so that whoever changes a manifest and computes its digest
anew is found out. Imports no torch.

The code is HMAC-SHA256 (RFC 2104) over the manifest's body, which holds the digest of every other
byte. Whoever has the key can sign, so it lies with whoever runs the job: in a file that nobody else
may read.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from dougong.checkpoint.disk import opened, read_file, storage_error, sync_directory, write_at
from dougong.errors import CheckpointError

OWN = "run"
"""What `checkpoint.sign` says for a key that the run makes for itself."""
OWN_KEY = Path("private", "checkpoints.key")
"""Where that lies, in the run's directory."""
SCHEME = "hmac-sha256"
_KEY_BYTES = 32
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Signature:
    """What a manifest carries. `key`: the key's name, which tells nothing of it; `code`: in hex."""

    key: str
    code: str


@dataclass(frozen=True)
class SigningKey:
    """A key, and the file that it was read from."""

    path: Path
    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """By which keys are told apart."""
        return self._code(b"dougong: the name of a key")[:16]

    def sign(self, text: bytes) -> Signature:
        """The signature of a manifest's body."""
        return Signature(self.name, self._code(b"dougong: a manifest\n" + text))

    def check(self, text: bytes, found: Signature | None, place: Path) -> None:
        """CheckpointError where a body has no signature by this key. `place`: the manifest."""
        if found is None:
            raise CheckpointError(
                f"{place}: is not signed, and must be, by the key of {self.path}; sign one that "
                f"you trust: `dougong verify {place.parent} --key {self.path} --sign`"
            )
        if found.key != self.name:
            raise CheckpointError(
                f"{place}: is signed by key {found.key}, and {self.path} is key {self.name}; name "
                "the key that it was signed with (checkpoint.sign, --key)"
            )
        if not hmac.compare_digest(found.code, self.sign(text).code):
            raise CheckpointError(
                f"{place}: its signature by key {found.key} is wrong: somebody without the key has "
                "changed it; use another checkpoint"
            )

    def _code(self, text: bytes) -> str:
        return hmac.digest(self.secret, text, "sha256").hex()


def read_key(path: Path) -> SigningKey:
    """The key of a file. CheckpointError where there is none, others may read it, or it is too
    short or too long for one."""
    try:
        mode = path.stat().st_mode
        data = read_file(path) if path.stat().st_size <= _MOST_BYTES else b""
    except OSError as error:
        raise CheckpointError(
            f"{path}: the key cannot be read: {error.strerror}; name its file, or make one: "
            f"`(umask 077; head -c {_KEY_BYTES} /dev/urandom > FILE)`"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise CheckpointError(
            f"{path}: others may read or write this key (mode {stat.S_IMODE(mode):04o}): "
            f"`chmod 600 {path}`, and make a new one if somebody may have"
        )
    if len(data) < _KEY_BYTES:
        raise CheckpointError(
            f"{path}: is no key: a key has {_KEY_BYTES} to {_MOST_BYTES} bytes of chance: "
            f"`(umask 077; head -c {_KEY_BYTES} /dev/urandom > FILE)`"
        )
    return SigningKey(path, data)


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
    run = place.parent.parent
    raise CheckpointError(
        f"{place}: the key that the run's checkpoints are signed with is gone; put it back, or go "
        f"on without: `dougong resume {run} -o checkpoint.sign=null`, which checks no signature"
    )
