"""Bytes to disk and back: whole, or an error that names place and remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from dougong.checkpoint.disk import (
    CHUNK_BYTES,
    digest,
    digest_range,
    is_refused,
    opened,
    read_file,
    read_into,
    storage_error,
    write_at,
    write_new,
)
from dougong.errors import CheckpointError


def test_a_digest_of_a_range_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Also of a range that is read in several pieces."""
    data = os.urandom(1 << 10) * (2 * CHUNK_BYTES // (1 << 10) + 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    with opened(path) as fd:
        assert digest_range(fd, 0, len(data)) == digest(data)
        assert digest_range(fd, 7, CHUNK_BYTES + 3) == digest(data[7 : CHUNK_BYTES + 10])
        assert digest_range(fd, 7, 0) == digest(b"")


def test_a_file_that_ends_early_is_no_shorter_answer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path) as fd:
        buffer = bytearray(4)
        read_into(fd, memoryview(buffer), 6)
        assert buffer == b"6789"
        with pytest.raises(CheckpointError, match="the file ends at byte 10, 3 bytes early"):
            read_into(fd, memoryview(bytearray(5)), 8)
        with pytest.raises(CheckpointError, match="truncated"):
            digest_range(fd, 0, 11)


def test_a_small_file_that_is_a_hole_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    assert read_file(path) == b"small"
    os.truncate(path, 1 << 40)
    with pytest.raises(CheckpointError, match=f"file: has {1 << 40} bytes, such a file at most {1 << 29}$"):
        read_file(path)


def test_what_is_said_of_a_name_is_no_refusal_of_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "file" / "x", tmp_path / "loop", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(OSError) as error:
            read_file(path)
        assert not is_refused(error.value)
    assert is_refused(OSError(errno.EIO, "ill"))


def test_writing_at_a_place_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with opened(path, os.O_RDWR) as fd:
        write_at(fd, b"ab", 4)
    assert path.read_bytes() == b"0123ab6789"


def test_a_new_file_is_new(tmp_path: Path) -> None:
    write_new(tmp_path / "file", b"one")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_descriptor_is_closed_whatever_happens(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), opened(tmp_path, os.O_RDONLY | os.O_DIRECTORY):
        raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"file: no space left to write a checkpoint \(\d+ bytes free\); .*checkpoint\.keep"),
        (errno.EDQUOT, "no space left"),
        (errno.EEXIST, "exists already"),
        (errno.EIO, "file: Input/output error; mend the storage, then go on"),
    ],
)
def test_what_storage_refuses_is_said_with_place_and_remedy(number: int, message: str, tmp_path: Path) -> None:
    error = storage_error(tmp_path / "not there" / "file", OSError(number, os.strerror(number)))
    assert isinstance(error, CheckpointError)
    with pytest.raises(CheckpointError, match=message):
        raise error


def test_no_space_names_what_was_to_be_written(tmp_path: Path) -> None:
    error = storage_error(tmp_path, OSError(errno.ENOSPC, "full"), "the ledger")
    assert f"{tmp_path}: no space left to write the ledger (" in str(error)


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTDIR])
def test_a_file_where_a_folder_must_be_is_named(number: int, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    root.write_text("mine")
    error = storage_error(root / "pending" / "2", OSError(number, os.strerror(number)))
    said = "a file lies where a folder must be; move it away and put the folder back, then go on"
    assert str(error) == f"{root}: {said}"
    root.unlink()
    root.symlink_to(tmp_path / "away")
    error = storage_error(root / "pending" / "2", OSError(number, os.strerror(number)))
    assert str(error).startswith(f"{root}: is a link to {tmp_path}/away, which is not there; mount it")


def test_what_helps_where_there_is_no_space_is_what_helps(tmp_path: Path) -> None:
    error = storage_error(tmp_path, OSError(errno.ENOSPC, "full"), "a signature", "free some, then again")
    assert str(error).endswith("; free some, then again")
