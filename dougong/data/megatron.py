"""Megatron-LM's indexed dataset, `megatron: PREFIX`. Imports no torch.

`PREFIX.bin` holds the ids, `PREFIX.idx` says what they are: 9 bytes of magic, uint64 version 1,
uint8 type code, uint64 sequences, uint64 documents, then int32 lengths (tokens), int64 pointers
(bytes), int64 document starts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.token_files import TokenFile, file_size, map_ids
from dougong.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
# The type codes of Megatron-LM's megatron/core/datasets/indexed_dataset.py (class DType), integers
# only.
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True)
class _IndexHead:
    """What the index says before its tables. `dtype`: numpy's word for the ids in the .bin."""

    dtype: str
    num_sequences: int
    num_documents: int

    @property
    def pointers_at(self) -> int:
        """The byte at which the pointers begin, after the lengths."""
        return _HEAD.size + 4 * self.num_sequences

    @property
    def documents_at(self) -> int:
        """The byte at which the documents begin, after the pointers."""
        return self.pointers_at + 8 * self.num_sequences

    @property
    def num_bytes(self) -> int:
        """The size of a whole index."""
        return self.documents_at + 8 * self.num_documents


def open_megatron(prefix: Path) -> TokenFile:
    """Open `PREFIX.bin` through `PREFIX.idx`; raises DataError where the two disagree or are cut
    short."""
    index = prefix.with_name(prefix.name + ".idx")
    head = _read_head(index)
    num_tokens = _count_tokens(index, head)
    return map_ids(prefix.with_name(prefix.name + ".bin"), head.dtype, num_tokens)


def megatron_starts(prefix: Path) -> TokenFile:
    """The places at which the index's documents begin, ascending, each once, from 0 on; int64, 8
    bytes of memory a document. Raises DataError for an index that names no document, or a sequence
    that it does not have."""
    index = prefix.with_name(prefix.name + ".idx")
    head = _read_head(index)
    lengths = _table(index, "<i4", _HEAD.size, head.num_sequences).astype(np.int64)
    documents = np.array(_table(index, "<i8", head.documents_at, head.num_documents))
    wrong = np.flatnonzero((documents < 0) | (documents > head.num_sequences))
    if documents.size == 0 or wrong.size:
        number = int(wrong[0]) if wrong.size else 0
        found = f"document {number} begins with sequence {documents[number]}" if wrong.size else ""
        raise DataError(
            f"{index}: byte {head.documents_at + 8 * number}: {found or 'it names no document'} "
            f"(of {head.num_sequences} sequences), so documents cannot be told apart "
            "(data.document_masks); preprocess it again"
        )
    ends = np.cumsum(lengths)
    places = np.concatenate([np.zeros(1, dtype=np.int64), ends])[documents]
    # The index ends with where one more document would begin; empty ones share a place.
    return TokenFile(index, np.unique(np.append(places[places < ends[-1]], 0)))


def _read_head(index: Path) -> _IndexHead:
    size = file_size(index)
    if size < _HEAD.size:
        raise DataError(
            f"{index}: byte {size}: the index ends inside its {_HEAD.size}-byte header; "
            "write or copy it again"
        )
    with index.open("rb") as file:
        magic, version, code, sequences, documents = _HEAD.unpack(file.read(_HEAD.size))
    _check_kind(index, magic, version, code)
    head = _IndexHead(_TYPES[code], sequences, documents)
    if size < head.num_bytes:
        raise DataError(
            f"{index}: byte {size}: the index ends early: {sequences} sequences and {documents} "
            f"documents take {head.num_bytes} bytes; write or copy it again"
        )
    if sequences == 0:
        raise DataError(
            f"{index}: byte 18: the index names no sequence; tokenise a text that is not empty"
        )
    return head


def _check_kind(index: Path, magic: bytes, version: int, code: int) -> None:
    if (magic, version) != (_MAGIC, 1):
        raise DataError(
            f"{index}: byte 0: not a Megatron-LM index (magic {magic!r}, version {version}); "
            "name the prefix of a .bin/.idx pair that preprocess_data.py wrote"
        )
    if code not in _TYPES:
        raise DataError(
            f"{index}: byte 17: type code {code} is no integer type; known are {sorted(_TYPES)}"
        )


def _count_tokens(index: Path, head: _IndexHead) -> int:
    """Tokens of all sequences.

    They must lie end to end from the first byte of the .bin: then it is one stream, and the index
    is not needed any more.
    """
    lengths = _table(index, "<i4", _HEAD.size, head.num_sequences).astype(np.int64)
    pointers = _table(index, "<i8", head.pointers_at, head.num_sequences)
    ends = np.cumsum(lengths) * np.dtype(head.dtype).itemsize
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
    misplaced = np.flatnonzero(pointers != starts)
    if misplaced.size:
        number = int(misplaced[0])
        place = head.pointers_at + pointers.itemsize * number
        raise DataError(
            f"{index}: byte {place}: sequence {number} starts at {int(pointers[number])}, not "
            "where the one before ends; only a .bin without gaps is read: preprocess it again"
        )
    return int(lengths.sum())


def _table(index: Path, dtype: str, offset: int, count: int) -> npt.NDArray[Any]:
    return np.memmap(index, dtype=dtype, mode="r", offset=offset, shape=(count,))
