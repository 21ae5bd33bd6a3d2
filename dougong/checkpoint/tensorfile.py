"""The safetensors format as byte ranges, without torch: where each tensor of a file lies, before any of it is written.

    8 bytes, little-endian: n | n bytes of JSON, padded with blanks | the tensors, end to end

The JSON maps a name to `dtype`, `shape` and `data_offsets` relative to its own end.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.disk import opened, read_into
from dougong.errors import CheckpointError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_NUMPY = {
    "F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2",
    "I16": "<i2", "U16": "<u2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 30


@dataclass(frozen=True)
class TensorShape:
    """What a file's header says of a tensor. `dtype` is safetensors' word (`F32`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Layout:
    """A file, planned whole: the header's bytes, each tensor's absolute offset, the size. Pure in the tensors."""

    header: bytes
    tensors: dict[str, TensorShape]
    offsets: dict[str, int]
    num_bytes: int


def plan_layout(tensors: Iterable[TensorShape]) -> Layout:
    """Lay tensors out end to end: widest items first (so all are aligned), then by name."""
    ordered = sorted(tensors, key=lambda t: (-ITEM_BYTES[t.dtype], t.name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    starts = {}
    for t in ordered:
        if t.name in starts:
            raise CheckpointError(f"{t.name}: given twice for one file; a tensor has one place")
        starts[t.name] = begin
        entries[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [begin, begin + t.num_bytes]}
        begin += t.num_bytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return Layout(header, {t.name: t for t in ordered}, offsets, len(header) + begin)


def read_layout(path: Path) -> Layout:
    """A file's own header. `CheckpointError` when it is no whole safetensors header."""
    with opened(path) as fd:
        prefix = bytearray(8)
        read_into(fd, memoryview(prefix), 0)
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: its header claims {length} bytes; not a safetensors file, or damaged")
        text = bytearray(length)
        read_into(fd, memoryview(text), 8)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {n: TensorShape(n, e["dtype"], tuple(e["shape"])) for n, e in entries.items()}
        offsets = {n: 8 + length + int(e["data_offsets"][0]) for n, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its header is not safetensors' JSON ({error}); damaged") from error
    header = bytes(prefix) + bytes(text)
    return Layout(header, tensors, offsets, len(header) + sum(t.num_bytes for t in tensors.values()))


def as_array(data: bytes | bytearray | memoryview, dtype: str) -> NDArray[Any]:
    """Flat values of a tensor's bytes; bfloat16 comes as float32 (exact), other formats unknown to numpy as bytes."""
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)
        narrow: NDArray[Any] = wide.view("<f4")
        return narrow
    return np.frombuffer(data, _NUMPY.get(dtype, "|u1"))
