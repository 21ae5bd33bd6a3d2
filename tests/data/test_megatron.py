"""Megatron-LM's indexed dataset: read as one stream, refused by byte where it is damaged."""

import struct
from pathlib import Path

import numpy as np
import pytest
from dougong.data.megatron import megatron_starts, open_megatron
from dougong.errors import DataError


def write_megatron(prefix: Path, sequences: list[list[int]], code: int = 8, dtype: str = "<u2") -> Path:
    """A .bin/.idx pair, by the format as Megatron-LM documents it."""
    ids = [np.array(sequence, dtype=dtype) for sequence in sequences]
    lengths = [len(sequence) for sequence in sequences]
    starts = [sum(lengths[:i]) * np.dtype(dtype).itemsize for i in range(len(lengths))]
    prefix.with_name(prefix.name + ".bin").write_bytes(b"".join(part.tobytes() for part in ids))
    count = len(sequences)
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, count, count + 1)
    index += struct.pack(f"<{count}i{count}q{count + 1}q", *lengths, *starts, *range(count + 1))
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    return prefix


@pytest.mark.parametrize(("code", "dtype"), [(1, "<u1"), (2, "<i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2")])
def test_megatron_ids(tmp_path: Path, code: int, dtype: str) -> None:
    tokens = open_megatron(write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]], code, dtype))
    assert tokens.read(0, 6).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (20, r"set\.idx: byte 20: the index ends inside its 34-byte header"),
        (60, r"set\.idx: byte 60: the index ends early: 3 sequences and 4 documents take 102 bytes"),
    ],
)
def test_truncated_megatron_index(tmp_path: Path, keep: int, message: str) -> None:
    prefix = write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]])
    index = tmp_path / "set.idx"
    index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(DataError, match=message):
        open_megatron(prefix)


def test_truncated_megatron_tokens(tmp_path: Path) -> None:
    prefix = write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]])
    (tmp_path / "set.bin").write_bytes(b"\x01\x00" * 5)
    with pytest.raises(DataError, match=r"set\.bin: byte 10: the file has 10 bytes where 6 tokens"):
        open_megatron(prefix)


@pytest.mark.parametrize(
    ("at", "patch", "message"),
    [
        (0, b"X", r"byte 0: not a Megatron-LM index"),
        (9, b"\x02", r"byte 0: not a Megatron-LM index .*version 2"),
        (17, b"\x06", r"byte 17: type code 6 is no integer type"),
        (18, b"\x00", r"byte 18: the index names no sequence"),
        (34 + 12 + 8, b"\x07", r"byte 54: sequence 1 starts at 7, not where the one before ends"),
        (34 + 12, b"\x02", r"byte 46: sequence 0 starts at 2"),
    ],
)
def test_damaged_megatron_index(tmp_path: Path, at: int, patch: bytes, message: str) -> None:
    prefix = write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]])
    index = tmp_path / "set.idx"
    content = bytearray(index.read_bytes())
    content[at : at + len(patch)] = patch
    index.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"set\.idx: " + message):
        open_megatron(prefix)


def test_a_negative_id_is_outside(tmp_path: Path) -> None:
    tokens = open_megatron(write_megatron(tmp_path / "set", [[1, -2]], 4, "<i4"))
    with pytest.raises(DataError, match=r"set\.bin: byte 4 \(token 1\): id -2 is outside"):
        tokens.check(0, 2, 10)


@pytest.mark.parametrize(
    ("documents", "starts"),
    [((0, 1, 2, 3), [0, 3, 4]), ((0, 2, 3), [0, 4]), ((0, 3), [0]), ((0, 1, 1, 3), [0, 3]), ((1, 3), [0, 3])],
)
def test_documents_of_several_sequences_and_empty_ones(
    documents: tuple[int, ...], starts: list[int], tmp_path: Path
) -> None:
    prefix = write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]])
    with_documents(tmp_path / "set.idx", documents)
    assert megatron_starts(prefix).ids.tolist() == starts


def with_documents(index: Path, documents: tuple[int, ...]) -> None:
    whole = bytearray(index.read_bytes())
    (count,) = struct.unpack_from("<Q", whole, 18)
    struct.pack_into("<Q", whole, 26, len(documents))
    index.write_bytes(whole[: 34 + 12 * count] + struct.pack(f"<{len(documents)}q", *documents))


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ((), r"set.idx: byte 70: it names no document \(of 3 sequences\), so documents cannot be told apart"),
        ((0, 4), r"set.idx: byte 78: document 1 begins with sequence 4 \(of 3 sequences\)"),
        ((-1, 3), r"set.idx: byte 70: document 0 begins with sequence -1"),
    ],
)
def test_an_index_whose_documents_are_none(documents: tuple[int, ...], message: str, tmp_path: Path) -> None:
    prefix = write_megatron(tmp_path / "set", [[1, 2, 3], [4], [5, 6]])
    with_documents(tmp_path / "set.idx", documents)
    assert open_megatron(prefix).num_tokens == 6
    with pytest.raises(DataError, match=message):
        megatron_starts(prefix)
