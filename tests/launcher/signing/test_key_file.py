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
        (bytes(1 << 17), "is no key: a key has 32"),
        (bytes(32), "is no key: it holds one byte again and again"),
        (b"k" * 4096, "is no key: it holds one byte again and again"),
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


def key_in(folder: Path) -> Path:
    return make_key(folder / "private" / "key").path


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another user's than who reads it."""
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def test_a_key_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_in(tmp_path)
    give_away(path, monkeypatch)
    with pytest.raises(CheckpointError, match=r"key: this key belongs to \w+.*; make one of your own: `\(umask 077"):
        read_key(path)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
@pytest.mark.parametrize("above", [0, 1])
def test_a_key_in_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int, above: int) -> None:
    """Also in one above it: who may rename that puts another one in its place."""
    path = key_in(tmp_path)
    folder = path.parents[above]
    folder.chmod(mode)
    said = f"others may put another key in its place: they may write in {folder} \\(mode {mode:04o}\\): "
    with pytest.raises(CheckpointError, match=f"{said}`chmod go-w {folder}`"):
        read_key(path)
    folder.chmod(mode | 0o1000)
    assert read_key(path).path == path, "as in /tmp: what is yours stays"
    folder.chmod(0o755)
    assert read_key(path).path == path


def test_a_link_to_a_key_is_held_to_the_same_at_both_ends(tmp_path: Path) -> None:
    path = key_in(tmp_path)
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "key").symlink_to(path)
    assert read_key(folder / "key").secret == read_key(path).secret
    for place in (folder, path.parent):
        place.chmod(0o777)
        with pytest.raises(CheckpointError, match=f"they may write in {place} "):
            read_key(folder / "key")
        place.chmod(0o700)


def test_a_folder_of_another_user_is_no_place_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_in(tmp_path)
    give_away(path.parent, monkeypatch)
    with pytest.raises(CheckpointError, match="belongs to"):
        read_key(path)
