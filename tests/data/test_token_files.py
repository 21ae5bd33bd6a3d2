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
    [
        ("uint16", None),
        ("uint16", {"dtype": "uint16"}),
        ("uint32", {"dtype": "uint32", "tokens": 5}),
        ("int32", {"dtype": "int32"}),
        ("int64", {"dtype": "int64", "tokens": 5}),
    ],
)
def test_bare_ids(tmp_path: Path, dtype: str, side: object) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [7, 8, 9, 10, 40000], dtype, side), None)
    assert tokens.num_tokens == 5
    read = tokens.read(1, 4)
    assert read.tolist() == [8, 9, 10, 40000]
    assert read.dtype == np.int64


def test_digest_is_of_the_ids_not_of_their_type(tmp_path: Path) -> None:
    small = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2, 3]), None)
    wide = open_tokens(write_tokens(tmp_path / "b.bin", [1, 2, 3], "uint32", {"dtype": "uint32"}), None)
    other = open_tokens(write_tokens(tmp_path / "c.bin", [1, 2, 4]), None)
    assert small.digest() == wide.digest() != other.digest()


def test_digest_of_a_long_file_takes_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tokens(tmp_path / "a.bin", list(range(1000)))
    monkeypatch.setattr(token_files, "WHOLE_TOKENS", 500)
    monkeypatch.setattr(token_files, "NUM_SAMPLES", 5)
    monkeypatch.setattr(token_files, "SAMPLE_TOKENS", 10)
    before = open_tokens(path, None).digest()
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    after = open_tokens(path, None).digest()
    assert before != after


@pytest.mark.parametrize(
    ("content", "side", "message"),
    [
        (b"", None, r"a\.bin: byte 0: the file is empty"),
        (b"\x01\x00\x02", None, r"a\.bin: byte 2: the file ends inside a token \(3 bytes, 2 a token\)"),
        (b"\x01\x00", {"dtype": "uint32"}, r"a\.bin: byte 0: the file ends inside a token"),
        (b"\x01\x00" * 3, {"dtype": "uint16", "tokens": 4}, r"a\.bin: byte 6: .*4 tokens of 2 bytes take 8.*truncated"),
        (b"\x01\x00" * 5, {"dtype": "uint16", "tokens": 4}, r"a\.bin: byte 8: "),
        (b"\x01\x00", {"dtype": "int8"}, r'a\.bin\.json: holds .*"dtype": "uint8" or .* or "int64"'),
        (b"\x01\x00", {"dtype": "uint16", "count": 1}, r"a\.bin\.json: holds"),
        (b"\x01\x00", {"dtype": "uint16", "tokens": "1"}, r"a\.bin\.json: holds"),
        (b"\x01\x00", [1], r"a\.bin\.json: holds"),
    ],
)
def test_damaged_bare_files(tmp_path: Path, content: bytes, side: object, message: str) -> None:
    path = write_tokens(tmp_path / "a.bin", [], side=side)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_tokens(path, None)


def test_a_sidecar_that_is_no_json(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", [1])
    (tmp_path / "a.bin.json").write_text("{dtype")
    with pytest.raises(DataError, match=r"a\.bin\.json: cannot be read"):
        open_tokens(path, None)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin: cannot be opened \(No such file or directory\)"):
        open_tokens(tmp_path / "none.bin", None)


def test_an_id_outside_the_vocabulary_is_found_by_offset(tmp_path: Path) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2, 300, 4, 301], "uint32", {"dtype": "uint32"}), None)
    tokens.check(0, 2, 256)
    tokens.check_all(302)
    with pytest.raises(DataError, match=r"a\.bin: byte 8 \(token 2\): id 300 .* \(0 \.\. 255\).*at least 302"):
        tokens.check_all(256)


def test_reading_beyond_the_end_is_our_mistake(tmp_path: Path) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2]), None)
    with pytest.raises(AssertionError, match="of 2 tokens"):
        tokens.read(1, 2)


def test_bytes_as_ids(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", list(b"plain text, which is what ids of bytes look like" * 4), "uint8")
    with pytest.raises(DataError, match=r"data\.tokens: .*a\.bin: is text, not token ids; name it in data\.text"):
        open_tokens(path, 256)
    path.with_name("a.bin.json").write_text('{"dtype": "uint8"}')
    assert open_tokens(path, 256).read(0, 2).tolist() == [112, 108]


def test_uint16_is_no_guess_for_a_larger_vocabulary(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", [1, 2, 3])
    assert open_tokens(path, 1 << 16).num_tokens == 3
    with pytest.raises(DataError, match=r"uint16 cannot hold this vocabulary of 65537; name the type in a\.bin\.json"):
        open_tokens(path, (1 << 16) + 1)
    path.with_name("a.bin.json").write_text('{"dtype": "uint16"}')
    assert open_tokens(path, 151936).num_tokens == 3


@pytest.mark.parametrize("dtype", ["<u2", "<i4", ">u4", "<i8", "<u1"])
def test_an_array_of_numpy_says_what_it_is(tmp_path: Path, dtype: str) -> None:
    ids = np.arange(200).astype(dtype)
    np.save(tmp_path / "a.npy", ids)
    tokens = open_tokens(tmp_path / "a.npy", 151936)
    assert tokens.read(0, 200).tolist() == list(range(200))
    with pytest.raises(DataError, match=rf"byte {128 + 150 * ids.itemsize} \(token 150\): id 150"):
        tokens.check_all(150)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.int64), "holds int64 of shape 3x4; token ids are integers in one dimension"),
        (np.zeros(4), r"holds float64 of shape 4; .*np\.save"),
        (np.array(4), "holds int64 of shape no;"),
        (np.zeros(0, np.uint16), "holds no id"),
    ],
)
def test_arrays_that_are_no_ids(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        open_tokens(tmp_path / "a.npy", None)


def test_an_array_that_is_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(400))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"a\.npy: not a whole \.npy file"):
        open_tokens(tmp_path / "a.npy", None)


@pytest.mark.parametrize(
    ("head", "message"),
    [(b"PAR1", "is a parquet table, not token ids; name it, or its folder, in data.dataset"),
     (b'{"text": "a"}\n{"a": 1}\n', "is a file of JSON objects, not token ids; rename it to .jsonl"),
     (b"\x1f\x8b\x08\0", "is gzip data"), (b"MMIDIDX\0", "is a Megatron-LM index.*data.megatron")],
)  # fmt: skip
def test_a_file_of_something_else(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(head + bytes(range(200)))
    with pytest.raises(DataError, match=message):
        open_tokens(tmp_path / "a.bin", None)


def test_a_negative_id_is_no_matter_of_the_vocabulary(tmp_path: Path) -> None:
    tokens = open_tokens(write_tokens(tmp_path / "a.bin", [1, 2, -100], "int32", {"dtype": "int32"}), 256)
    with pytest.raises(DataError, match=r"byte 8 \(token 2\): id -100 is outside .*never negative.*not int32"):
        tokens.check_all(256)


def test_wider_ids_than_somebody_says_are_refused(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "a.bin", list(range(1, 3000)), "int64", {"dtype": "uint32"})
    with pytest.raises(DataError, match=r'a\.bin: read as uint32, .*1, 0, 2, 0, .*64 bits; say so .*"int64"'):
        open_tokens(path, 3000)
