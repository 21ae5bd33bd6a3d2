"""The headers of safetensors files: which tensors a file holds, and whether it is whole.

Imports neither torch nor safetensors: a file begins with its header's length (eight bytes,
little-endian) and the header, which is JSON.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dougong.errors import ModelError

AGAIN = "download it again"
LFS_POINTER = b"version https://git-lfs"
"""How the few lines begin that git-lfs puts in a file's place until it is fetched."""
_MOST_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
INTEGERS = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
}  # fmt: skip
_EIGHT_BITS = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_T = TypeVar("_T")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype in safetensors' word, its shape, and which bytes it has."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def is_floating(self) -> bool:
        return self.dtype in FLOATS


def by_name(stored: Mapping[str, _T], name: str) -> _T | None:
    """What is stored under a name. Some folders hold the base model alone, whose names lack the
    first word."""
    return stored.get(name, stored.get(name.partition(".")[2]))


def file_tensors(path: Path) -> list[StoredTensor]:
    """The tensors of one file, whose size must be what its header promises."""
    header, num_bytes = _header(path)
    tensors, end = _parse(path, header)
    for tensor in tensors:
        _check_size(tensor)
    promised = len(header) + end
    if num_bytes < promised:
        raise refused(path, _cut_short(num_bytes, promised))
    if num_bytes > promised:
        reason = f"has {num_bytes:,} bytes, but its header accounts for {promised:,}; {AGAIN}"
        raise refused(path, reason)
    return tensors


def _header(path: Path) -> tuple[bytes, int]:
    """A file's bytes up to its first tensor, and the number of all its bytes."""
    try:
        with path.open("rb") as file:
            num_bytes = file.seek(0, 2)
            file.seek(0)
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            # The length is nonsense where the file is of another kind: its beginning says which.
            header = start + file.read(min(length, _MOST_HEADER_BYTES))
    except OSError as error:
        raise refused(path, f"cannot be read: {error.strerror}") from error
    if num_bytes < _LENGTH_BYTES or length > _MOST_HEADER_BYTES:
        known = what_it_is(header)
        unknown = f"is not a safetensors file ({num_bytes:,} bytes, no header); {AGAIN}"
        raise refused(path, known or unknown)
    if len(header) < _LENGTH_BYTES + length:
        raise refused(path, _cut_short(num_bytes, _LENGTH_BYTES + length))
    return header, num_bytes


def _parse(path: Path, header: bytes) -> tuple[list[StoredTensor], int]:
    """The tensors, and where the last one's bytes end."""
    tensors, end = [], 0
    try:
        entries = json.loads(header[_LENGTH_BYTES:])
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, stop = entry["data_offsets"]
            shape = tuple(operator.index(size) for size in entry["shape"])
            place = len(header) + begin, stop - begin
            tensors.append(StoredTensor(path, name, _word(entry["dtype"]), shape, *place))
            end = max(end, stop)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = what_it_is(header) or f"is not a safetensors file (no header); {AGAIN}"
        raise refused(path, reason) from error
    return tensors, end


def _word(dtype: object) -> str:
    if not isinstance(dtype, str):
        raise TypeError(f"dtype {dtype!r}")
    return dtype


def _check_size(tensor: StoredTensor) -> None:
    width = (FLOATS | INTEGERS | _EIGHT_BITS).get(tensor.dtype)
    if width is not None and math.prod(tensor.shape) * width != tensor.num_bytes:
        raise refused(
            tensor.file,
            f"{tensor.name} of {tensor.dtype} {list(tensor.shape)} is said to have "
            f"{tensor.num_bytes} bytes; the file is damaged: {AGAIN}",
        )


def refused(path: Path, reason: str) -> ModelError:
    return ModelError(f"model.path: {path}: {reason}")


def _cut_short(num_bytes: int, promised: int) -> str:
    return (
        f"is cut short: it has {num_bytes:,} bytes, its header promises {promised:,}; "
        f"the download was not complete: {AGAIN}"
    )


def what_it_is(begin: bytes) -> str | None:
    """What a file is that should be another, by how it begins; None: unknown."""
    if not begin.strip(b"\0"):
        return f"is empty: the download was not complete; {AGAIN}"
    if begin.startswith(LFS_POINTER):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in the folder"
    if begin.lstrip()[:1] == b"<":
        return f"is a web page, not the file itself; {AGAIN}"
    if begin.startswith(b"PK"):
        return "is a zip (a pickled torch file under another name); save it with `save_pretrained`"
    return None
