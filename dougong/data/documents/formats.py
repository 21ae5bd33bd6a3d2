"""What a file is by its first bytes, whatever its name says. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dougong.errors import DataError
from dougong.job.data_files import ending_of_json
from dougong.models.stored.headers import LFS_POINTER

HEAD_BYTES = 4096
"""As much of a file's beginning as is looked at."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some editors put before UTF-8 text; it belongs to no document."""

NPY_MAGIC = b"\x93NUMPY"
"""What numpy writes before an array."""

_UNPACK = "unpack it first"
_ROWS = "name it, or its folder, in data.dataset"
_OBJECTS = "a file of JSON objects"
_PLAIN = "save its text as plain UTF-8"
_WRONG_FILE = "it holds no text: name the right file"
# The longer beginning first where one begins as another does.
_KINDS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b\x08", "gzip data", f"{_UNPACK}: gunzip -k"),
    (b"\x28\xb5\x2f\xfd", "zstd data", f"{_UNPACK}: zstd -d"),
    (b"\xfd7zXZ\x00", "xz data", f"{_UNPACK}: xz -dk"),
    (b"BZh", "bzip2 data", f"{_UNPACK}: bunzip2 -k"),
    (b"\x04\x22\x4d\x18", "lz4 data", f"{_UNPACK}: lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"PK\x03\x04", "a zip archive", f"{_UNPACK}: unzip"),
    (b"PAR1", "a parquet table", _ROWS),
    (b"ARROW1", "an arrow table", _ROWS),
    (NPY_MAGIC, "a numpy array", "name it in data.tokens if it holds token ids"),
    (b"MMIDIDX", "a Megatron-LM index", "name its prefix in data.megatron"),
    (b"\x89HDF", "an HDF5 file", _PLAIN),
    (b"SQLite format 3", "an SQLite database", _PLAIN),
    (b"%PDF-", "a PDF document", _PLAIN),
    (b"\x89PNG", "a picture", _WRONG_FILE),
    (b"\xff\xd8\xff", "a picture", _WRONG_FILE),
    (b"\x7fELF", "a program", _WRONG_FILE),
    (LFS_POINTER, "a git-lfs pointer", "fetch it: git lfs pull"),
)
_TAR_AT, _TAR = 257, b"ustar"
_LINES_OF_JSON = (".jsonl", ".ndjson")
_LEAST_BYTES = 64


@dataclass(frozen=True)
class Format:
    """What a file is, in words, and what to do with it."""

    name: str
    remedy: str


def kind_of(head: bytes, least: int = 2) -> Format | None:
    """What the first bytes of a file say it is; None for what may be plain text or bare ids.
    `least`: bytes that must agree, more where anything may begin so by chance."""
    for magic, name, remedy in _KINDS:
        if len(magic) >= least and head.startswith(magic):
            return Format(name, remedy)
    if head[_TAR_AT:].startswith(_TAR):
        return Format("a tar archive", f"{_UNPACK}: tar -xf")
    return None


def refuse_no_text(path: Path, head: bytes) -> None:
    """DataError for a file whose first bytes, `head`, are not the beginning of UTF-8 text."""
    kind = kind_of(head) or _two_bytes_a_character(head) or _nul(head)
    kind = kind or rows(path, head)
    if kind is not None:
        raise DataError(f"data.text: {path}: is {kind.name}, not plain text; {kind.remedy}")


def refuse_other_than_json(path: Path) -> None:
    """DataError for a file of a tokenizer that is, by its first bytes, something else. OSError
    where it cannot be read."""
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD_BYTES))
    if kind is not None:
        raise DataError(f"{path}: is {kind.name}, not JSON; {kind.remedy}")


def is_text(head: bytes) -> bool:
    """Whether bytes read as text and as nothing else: no bare ids look like that."""
    if len(head) < _LEAST_BYTES:
        return False
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        # The last character may be cut.
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return all(sign.isprintable() or sign in "\t\n\r\f" for sign in text)


def _two_bytes_a_character(head: bytes) -> Format | None:
    """UTF-16 without its mark: Western text in it has a zero in every second byte."""
    for first, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = head[first::2], head[1 - first :: 2]
        if len(head) >= _LEAST_BYTES and not any(zeros) and all(others):
            return Format(f"{name} text", f"convert it: iconv -f {name} -t UTF-8")
    return None


def _nul(head: bytes) -> Format | None:
    """No text holds a NUL byte; Western text in UTF-32 has three in every four bytes."""
    if b"\0" not in head:
        return None
    for place, name in ((0, "UTF-32LE"), (3, "UTF-32BE")):
        zeros = [head[at::4] for at in range(4) if at != place]
        if len(head) >= _LEAST_BYTES and not any(map(any, zeros)):
            return Format(f"{name} text", f"convert it: iconv -f {name} -t UTF-8")
    place = head.index(b"\0")
    return Format(f"a file with a NUL byte at {place}", "convert it to UTF-8, or leave it out")


def rows(path: Path, head: bytes) -> Format | None:
    """A file of JSON objects, one a line or in an array, by its first bytes; by its name too where
    the first line is longer than they are."""
    ending = ending_of_json(head)
    if path.suffix in _LINES_OF_JSON:
        return Format(_OBJECTS, _ROWS) if ending or _begins_a_row(head) else None
    if ending is None or (path.suffix == ".json" and ending == ".jsonl" and _is_one_line(head)):
        return None
    remedy = _ROWS if path.suffix == ending else f"rename it to {ending} and {_ROWS}"
    return Format(_OBJECTS, remedy)


def _is_one_line(head: bytes) -> bool:
    """One object in a .json file may be any document."""
    return b"\n" not in head.strip()


def _begins_a_row(head: bytes) -> bool:
    line, newline, _ = head.removeprefix(BYTE_ORDER_MARK).lstrip().partition(b"\n")
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        # The first line may be longer than what was read of it.
        return not newline and line.startswith(b"{")
