"""What a file is by its first bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.data.documents.formats import is_text, kind_of, refuse_no_text
from dougong.errors import DataError

WORDS = "the brackets join unlike timbers without nails and let a hall ride out an earthquake"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x1f\x8b\x08\0", "is gzip data, not plain text; unpack it first: gunzip -k"),
        (b"\x28\xb5\x2f\xfd", "is zstd data, not plain text; unpack it first: zstd -d"),
        (b"\xfd7zXZ\0", "is xz data"),
        (b"BZh91AY", "is bzip2 data"),
        (b"PAR1\x15", "is a parquet table, not plain text; name it, or its folder, in data.dataset"),
        (b"\x93NUMPY\x01", "is a numpy array, not plain text; name it in data.tokens"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\0" * 257 + b"ustar", "is a tar archive"),
        (b"\xff\xfeh\0", "is UTF-16 text, not plain text; convert it: iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff\0h", "is UTF-16 text"),
        (b"\xff\xfe\0\0h\0\0\0", "is UTF-32 text"),
        (WORDS.encode("utf-16-le"), "is UTF-16LE text, not plain text; convert it: iconv -f UTF-16LE"),
        (WORDS.encode("utf-16-be"), "is UTF-16BE text"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a git-lfs pointer, .* git lfs pull",
        ),
        (WORDS.encode("utf-32-le"), "is UTF-32LE text, not plain text; convert it: iconv -f UTF-32LE"),
        (WORDS.encode("utf-32-be"), "is UTF-32BE text"),
        (WORDS.encode() + b"\0", "is a file with a NUL byte at 84, not plain text"),
        (b"%PDF-1.7", "is a PDF document"),
    ],
)
def test_what_is_no_plain_text(head: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.text: in/a\.txt: {message}"):
        refuse_no_text(Path("in/a.txt"), head)


@pytest.mark.parametrize("head", [b'{"text": "a"}\n{', b'\xef\xbb\xbf{"a": 1}', b'{"text": "' + b"a" * 4096])
def test_rows_of_json_are_known_by_name_and_first_line(head: bytes) -> None:
    with pytest.raises(DataError, match="is a file of JSON objects, .* in data.dataset"):
        refuse_no_text(Path("a.jsonl"), head)


@pytest.mark.parametrize(
    ("name", "head", "remedy"),
    [
        ("a.txt", b'{"text": "a"}\n{"text": "b"}\n', "rename it to .jsonl and name it, or its folder, in data.dataset"),
        ("a.txt", b'{"text": "' + b"a" * 4096, "rename it to .jsonl"),
        ("a.json", b'{"text": "a"}\n{"text": "b"}\n', "rename it to .jsonl"),
        ("a.json", b'[\n {"text": "a"},', "name it, or its folder, in data.dataset"),
        ("a", b'[{"text": 1},', "rename it to .json and"),
    ],
)
def test_rows_under_another_name_are_refused_with_the_right_one(name: str, head: bytes, remedy: str) -> None:
    with pytest.raises(DataError, match=f"is a file of JSON objects, not plain text; {remedy}"):
        refuse_no_text(Path(name), head)


@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.md", "a.json"])
def test_text_that_only_begins_like_rows_is_left_alone(name: str) -> None:
    for head in (b'{\n  "name": "x"\n}\n', b"{}\n", b'{"a": 1}\nand words\n', b"[1, 2]\n", b"[{name}]\n"):
        refuse_no_text(Path(name), head)
    refuse_no_text(Path("one.json"), b'{"name": "x"}\n')


@pytest.mark.parametrize("head", [b"", b"a", WORDS.encode(), b"[1, 2]\n", "斗拱".encode(), b"\xef\xbb\xbfone"])
def test_plain_text_is_left_alone(head: bytes) -> None:
    for name in ("a.txt", "a.jsonl"):
        refuse_no_text(Path(name), head)


def test_short_beginnings_may_be_ids() -> None:
    assert kind_of(b"\xff\xfe\x01\x02", 3) is None and kind_of(b"\xff\xfe\x01\x02") is not None


def test_text_among_ids() -> None:
    assert is_text(WORDS.encode()) and is_text(("斗" * 30).encode()[:-1])
    assert not is_text(b"short") and not is_text(b"a\0" * 50) and not is_text(bytes(range(200)))
