"""A key lies where its owner alone can read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dougong.errors import CheckpointError
from dougong.launcher.signing.key_file import make_key, read_key


def test_a_key_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        key = make_key(tmp_path / "private/checkpoints.key")
    finally:
        os.umask(before)
    assert (key.path.stat().st_mode & 0o777, key.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert read_key(key.path) == key
    key.path.chmod(0o640)
    with pytest.raises(CheckpointError, match=r"others may read or write this key \(mode 0640\): `chmod 600"):
        read_key(key.path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "the key cannot be read: No such file"),
        (b"secret", "is no key: a key has 32"),
        (bytes(1 << 17), "is no key"),
    ],
)
def test_what_is_no_key_is_refused(data: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if data is not None:
        path.write_bytes(data)
        path.chmod(0o600)
    with pytest.raises(CheckpointError, match=reason):
        read_key(path)


def test_a_pipe_is_no_key_and_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(
        CheckpointError, match="is a pipe, and a key is a file of 32 to 65536 bytes of chance; name its file"
    ):
        read_key(tmp_path / "key")
