"""Token files on disk: what is read, and what each kind of damage is called."""

import json
from pathlib import Path

import numpy as np
import pytest
from dougong.data import token_files
from dougong.data.token_files import open_tokens
from dougong.errors import DataError


def write_tokens(path: Path, ids: list[int], dtype: str = "uint16", side: object = None) -> Path:
    np.array(ids, dtype=dtype).tofile(path)
    if side is not None:
        path.with_name(path.name + ".json").write_text(json.dumps(side))
    return path


@pytest.mark.parametrize(
    ("dtype", "side"),
    [("uint16", None), ("uint16", {"dtype": "uint16"}), ("uint32", {"dtype": "uint32", "tokens": 5})],
)
def test_bare_ids(tmp_path: Path, dtype: str, side: object) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [7, 8, 9, 10, 40000], dtype, side))
    assert tokens.num_tokens == 5
    read = tokens.read(1, 4)
    assert read.tolist() == [8, 9, 10, 40000]
    assert read.dtype == np.int64


def test_digest_is_of_the_ids_not_of_their_type(tmp_path: Path) -> None:
    small = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2, 3]))
    wide = open_tokens(write_tokens(tmp_path / "b.bin", [1, 2, 3], "uint32", {"dtype": "uint32"}))
    other = open_tokens(write_tokens(tmp_path / "c.bin", [1, 2, 4]))
    assert small.digest() == wide.digest() != other.digest()


def test_digest_of_a_long_file_takes_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tokens(tmp_path / "a.bin", list(range(1000)))
    monkeypatch.setattr(token_files, "WHOLE_TOKENS", 500)
    monkeypatch.setattr(token_files, "NUM_SAMPLES", 5)
    monkeypatch.setattr(token_files, "SAMPLE_TOKENS", 10)
    before = open_tokens(path).digest()
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    after = open_tokens(path).digest()
    assert before != after


@pytest.mark.parametrize(
    ("content", "side", "message"),
    [
        (b"", None, r"a\.bin: byte 0: the file is empty"),
        (b"\x01\x00\x02", None, r"a\.bin: byte 2: the file ends inside a token \(3 bytes, 2 a token\)"),
        (b"\x01\x00", {"dtype": "uint32"}, r"a\.bin: byte 0: the file ends inside a token"),
        (b"\x01\x00" * 3, {"dtype": "uint16", "tokens": 4}, r"a\.bin: byte 6: .*4 tokens of 2 bytes take 8.*truncated"),
        (b"\x01\x00" * 5, {"dtype": "uint16", "tokens": 4}, r"a\.bin: byte 8: "),
        (b"\x01\x00", {"dtype": "int8"}, r'a\.bin\.json: holds .*"dtype": "uint16" or "uint32"'),
        (b"\x01\x00", {"dtype": "uint16", "count": 1}, r"a\.bin\.json: holds"),
        (b"\x01\x00", {"dtype": "uint16", "tokens": "1"}, r"a\.bin\.json: holds"),
        (b"\x01\x00", [1], r"a\.bin\.json: holds"),
    ],
)
def test_damaged_bare_files(tmp_path: Path, content: bytes, side: object, message: str) -> None:
    path = write_tokens(tmp_path / "a.bin", [], side=side)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_tokens(path)


def test_a_sidecar_that_is_no_json(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", [1])
    (tmp_path / "a.bin.json").write_text("{dtype")
    with pytest.raises(DataError, match=r"a\.bin\.json: cannot be read"):
        open_tokens(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin: cannot be opened \(No such file or directory\)"):
        open_tokens(tmp_path / "none.bin")


def test_an_id_outside_the_vocabulary_is_found_by_offset(tmp_path: Path) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2, 300, 4, 301], "uint32", {"dtype": "uint32"}))
    tokens.check(0, 2, 256)
    tokens.check_all(302)
    with pytest.raises(DataError, match=r"a\.bin: byte 8 \(token 2\): id 300 .* \(0 \.\. 255\).*at least 302"):
        tokens.check_all(256)


def test_reading_beyond_the_end_is_our_mistake(tmp_path: Path) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2]))
    with pytest.raises(AssertionError, match="of 2 tokens"):
        tokens.read(1, 2)
