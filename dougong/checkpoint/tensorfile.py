"""The safetensors format as byte ranges: where each tensor of a file lies, before any of it is
written. Imports no torch.

    8 bytes, little-endian: n | n bytes of JSON, padded with blanks | the tensors, end to end

The JSON maps a name to `dtype`, `shape` and `data_offsets` relative to its own end.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.errors import CheckpointError, NumericsError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_NUMPY = {
    "F64": "<f8", "I64": "<i8", "U64": "<u8",
    "F32": "<f4", "I32": "<i4", "U32": "<u4",
    "F16": "<f2", "I16": "<i2", "U16": "<u2",
    "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_ALIGNMENT = 64
_EXPONENTS = {
    "F64": 0x7FF0_0000_0000_0000,
    "F32": 0x7F80_0000,
    "F16": 0x7C00,
    "BF16": 0x7F80,
}
"""The bits of the exponent, by safetensors' word. All of them set: NaN or infinite (IEEE 754; a
bfloat16 is the upper half of a float32)."""
_CHUNK_BYTES = 1 << 20
"""What is looked at at once: it stays in the cache."""


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
class TensorSpan:
    """Elements `begin` to before `end` of a tensor of this `shape`, counted as they lie there."""

    begin: int
    end: int
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class FileLayout:
    """A file, planned whole: the header's bytes, each tensor's absolute offset, the size.

    It depends on the tensors' names, dtypes and shapes alone, so that several workers can plan one
    file without a word.
    """

    header: bytes
    tensors: dict[str, TensorShape]
    offsets: dict[str, int]
    num_bytes: int


def plan_layout(tensors: Iterable[TensorShape]) -> FileLayout:
    """Lay tensors out end to end: widest items first (so all are aligned), then by name."""
    # Every start is a multiple of its tensor's item: the widths are powers of two and fall from
    # tensor to tensor, and the header ends at a multiple of 64.
    ordered = sorted(tensors, key=lambda t: (-ITEM_BYTES[t.dtype], t.name))
    starts: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        if tensor.name in starts:
            raise CheckpointError(
                f"{tensor.name}: given twice for one file; a tensor has one place"
            )
        starts[tensor.name] = end
        end += tensor.num_bytes
    header = _header(ordered, starts)
    offsets = {name: len(header) + start for name, start in starts.items()}
    return FileLayout(header, {t.name: t for t in ordered}, offsets, len(header) + end)


def _header(tensors: Iterable[TensorShape], starts: Mapping[str, int]) -> bytes:
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        start = starts[tensor.name]
        described[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.num_bytes],
        }
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def files_by_tensor(layouts: Mapping[str, FileLayout]) -> dict[str, str]:
    """The file in which each tensor lies, of planned files by their names."""
    files: dict[str, str] = {}
    for file, layout in layouts.items():
        files.update(dict.fromkeys(layout.tensors, file))
    return files


def as_array(data: bytes | bytearray | memoryview, dtype: str) -> NDArray[Any]:
    """Flat values of a tensor's bytes.

    bfloat16 comes as float32, which is exact; other formats that numpy does not know come as bytes.
    """
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)
        narrow: NDArray[Any] = wide.view("<f4")
        return narrow
    return np.frombuffer(data, _NUMPY.get(dtype, "|u1"))


def num_not_finite(data: bytes | bytearray | memoryview, dtype: str) -> int:
    """How many values of a tensor's bytes are not finite. Whole numbers are, and so is what is
    stored in a format that no state is kept in. `dtype`: safetensors' word."""
    exponent = _EXPONENTS.get(dtype)
    if exponent is None:
        return 0
    kind = np.dtype(f"<u{ITEM_BYTES[dtype]}")
    mask = kind.type(exponent)
    bits = np.frombuffer(data, kind)
    count = 0
    for first in range(0, len(bits), _CHUNK_BYTES // kind.itemsize):
        piece = bits[first : first + _CHUNK_BYTES // kind.itemsize]
        count += int(np.count_nonzero((piece & mask) == mask))
    return count


@dataclass
class FiniteCount:
    """Counts while a tensor is read piece by piece; a piece holds whole values."""

    dtype: str
    num_not_finite: int = 0

    def see(self, piece: bytes | bytearray | memoryview) -> None:
        """Look at the next piece."""
        self.num_not_finite += num_not_finite(piece, self.dtype)


def not_finite_words(count: int) -> str:
    """What is said of a tensor with so many such values."""
    values = "1 value that is" if count == 1 else f"{count} values that are"
    return f"{values} not finite (NaN or infinite)"


def refuse_not_finite(place: str, label: str, data: memoryview, dtype: str) -> None:
    """NumericsError for a tensor of a checkpoint (`place`) that is to be written.

    A step with a finite loss and gradient can still end in a state that is not: its update was too
    large. Looked at beside training, and before anything of it becomes a checkpoint.
    """
    count = num_not_finite(data, dtype)
    if count:
        raise NumericsError(
            f"checkpoint {place}: {label} holds {not_finite_words(count)} after its update, so no "
            "checkpoint is made of this step; those before it are kept; begin anew with a lower "
            "optimizer.lr or an optimizer.clip_norm"
        )
