"""Where tokens lie: memory-mapped files of token ids, whoever wrote them. Imports no torch.

A `TokenFile` is a run of unsigned or signed integers inside a file. Two formats on disk are read
here:

- `tokens: FILE.bin`: bare little-endian ids, uint16, unless `FILE.bin.json` beside it says otherwise:
  `{"dtype": "uint32", "tokens": 123456}` (`tokens` is optional; with it a file cut at a whole token is noticed too).
- `megatron: PREFIX`: Megatron-LM's indexed dataset, `PREFIX.bin` and `PREFIX.idx`; its sequences are one stream.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.errors import DataError

# A file of up to this many tokens is digested and checked whole when it is opened; of a longer one,
# samples.
WHOLE_TOKENS = 1 << 26
_SAMPLES = 64
_SAMPLE_TOKENS = 1 << 18

_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
# The type codes of Megatron-LM's megatron/core/datasets/indexed_dataset.py (class DType), integers
# only.
_MEGATRON_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A stream of token ids in a memory-mapped file."""

    path: Path
    ids: npt.NDArray[Any]

    @property
    def num_tokens(self) -> int:
        return int(self.ids.shape[0])

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Tokens `start .. start + count`, int64 [count]."""
        assert start >= 0 and start + count <= self.num_tokens, (
            f"{start} + {count} of {self.num_tokens} tokens"
        )
        return self.ids[start : start + count].astype(np.int64)

    def check(self, start: int, count: int, vocab_size: int) -> None:
        """Raises DataError with file and byte offset if one of these tokens is outside 0 ..
        vocab_size-1."""
        part = self.ids[start : start + count]
        if count == 0 or (int(part.max()) < vocab_size and int(part.min()) >= 0):
            return
        first = start + int(np.flatnonzero((part >= vocab_size) | (part < 0))[0])
        raise DataError(
            f"{self.path}: byte {first * self.ids.itemsize} (token {first}): id {int(self.ids[first])} is outside the "
            f"vocabulary (0 .. {vocab_size - 1}); tokenise with the model's tokenizer, or raise "
            f"model.config.vocab_size to at least {self._largest() + 1}"
        )

    def check_all(self, vocab_size: int) -> None:
        """`check` of the whole file, in pieces; for files of at most WHOLE_TOKENS tokens."""
        for start in range(0, self.num_tokens, 1 << 22):
            self.check(start, min(1 << 22, self.num_tokens - start), vocab_size)

    def digest(self) -> str:
        """Hexadecimal digest of the ids, whatever type they are stored in.

        Whole up to WHOLE_TOKENS tokens; of a longer file its length and 64 evenly spaced samples of
        256 Ki tokens, so that opening a terabyte takes no longer than a second.
        """
        total = hashlib.blake2b(str(self.num_tokens).encode(), digest_size=16)
        for start in self._digested():
            total.update(self.ids[start : start + _SAMPLE_TOKENS].astype("<u4").tobytes())
        return total.hexdigest()

    def _digested(self) -> list[int]:
        if self.num_tokens <= WHOLE_TOKENS:
            return list(range(0, self.num_tokens, _SAMPLE_TOKENS))
        last = self.num_tokens - _SAMPLE_TOKENS
        return [last * i // (_SAMPLES - 1) for i in range(_SAMPLES)]

    def _largest(self) -> int:
        return int(self.ids[:WHOLE_TOKENS].max())


def map_ids(path: Path, dtype: str, num_tokens: int | None = None) -> TokenFile:
    """Map `path` as ids of the numpy type `dtype`; with `num_tokens` the file must hold exactly so
    many.

    Raises DataError for a file that is missing, empty, or cut short.
    """
    size, width = _size(path), np.dtype(dtype).itemsize
    if size == 0:
        raise DataError(
            f"{path}: byte 0: the file is empty; a token file holds at least one sequence of ids"
        )
    if num_tokens is not None and size != num_tokens * width:
        raise DataError(
            f"{path}: byte {min(size, num_tokens * width)}: the file has {size} bytes where {num_tokens} tokens of "
            f"{width} bytes take {num_tokens * width}; it is truncated or another index's: write or copy it again"
        )
    if size % width:
        raise DataError(
            f"{path}: byte {size - size % width}: the file ends inside a token ({size} bytes, {width} a token); it is "
            f"truncated, or its type is another: copy it again, or name the type in {path.name}.json "
            '({"dtype": "uint32"})'
        )
    return TokenFile(path, np.memmap(path, dtype=np.dtype(dtype), mode="r"))


def open_tokens(path: Path) -> TokenFile:
    """Open a bare token file, `tokens: FILE.bin`; see the module's text for the format."""
    side = path.with_name(path.name + ".json")
    if not side.exists():
        return map_ids(path, "<u2")
    said = _read_side(side)
    return map_ids(path, {"uint16": "<u2", "uint32": "<u4"}[said["dtype"]], said.get("tokens"))


def _read_side(side: Path) -> dict[str, Any]:
    rule = 'it must be {"dtype": "uint16" or "uint32", "tokens": NUMBER}, "tokens" optional'
    try:
        said = json.loads(side.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{side}: cannot be read ({error}); {rule}") from error
    known = (
        isinstance(said, dict)
        and said.keys() <= {"dtype", "tokens"}
        and said.get("dtype") in ("uint16", "uint32")
    )
    if not known or type(said.get("tokens", 0)) is not int:
        raise DataError(f"{side}: holds {json.dumps(said)[:200]}; {rule}")
    return dict(said)


def open_megatron(prefix: Path) -> TokenFile:
    """Open Megatron-LM's `PREFIX.bin` through `PREFIX.idx`; raises DataError where the two disagree
    or are cut short.

    The index: 9 bytes of magic, uint64 version 1, uint8 type code, uint64 sequences, uint64
    documents, then int32 lengths (tokens), int64 pointers (bytes), int64 document starts.
    """
    index = prefix.with_name(prefix.name + ".idx")
    size = _size(index)
    head = struct.Struct("<9sQBQQ")
    if size < head.size:
        raise DataError(
            f"{index}: byte {size}: the index ends inside its {head.size}-byte header; write or copy it again"
        )
    with index.open("rb") as file:
        magic, version, code, sequences, documents = head.unpack(file.read(head.size))
    if (magic, version) != (_MEGATRON_MAGIC, 1):
        raise DataError(
            f"{index}: byte 0: not a Megatron-LM index (magic {magic!r}, version {version}); name the prefix of a "
            ".bin/.idx pair that preprocess_data.py wrote"
        )
    if code not in _MEGATRON_TYPES:
        raise DataError(
            f"{index}: byte 17: type code {code} is no integer type; known are {sorted(_MEGATRON_TYPES)}"
        )
    need = head.size + sequences * 12 + documents * 8
    if size < need:
        raise DataError(
            f"{index}: byte {size}: the index ends early: {sequences} sequences and {documents} documents take {need} "
            "bytes; write or copy it again"
        )
    return _megatron_ids(prefix, index, _MEGATRON_TYPES[code], head.size, sequences)


def _megatron_ids(prefix: Path, index: Path, dtype: str, offset: int, sequences: int) -> TokenFile:
    if sequences == 0:
        raise DataError(
            f"{index}: byte 18: the index names no sequence; tokenise a text that is not empty"
        )
    lengths = np.memmap(index, dtype="<i4", mode="r", offset=offset, shape=(sequences,)).astype(
        np.int64
    )
    pointers = np.memmap(
        index, dtype="<i8", mode="r", offset=offset + 4 * sequences, shape=(sequences,)
    )
    ends = np.cumsum(lengths) * np.dtype(dtype).itemsize
    gaps = np.flatnonzero(pointers[1:] != ends[:-1])
    if pointers[0] != 0 or gaps.size:
        at = int(gaps[0]) + 1 if pointers[0] == 0 else 0
        place = offset + 4 * sequences + 8 * at
        raise DataError(
            f"{index}: byte {place}: sequence {at} starts at {int(pointers[at])}, not where the one before ends; only "
            "a .bin without gaps is read: preprocess it again"
        )
    return map_ids(prefix.with_name(prefix.name + ".bin"), dtype, int(lengths.sum()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); check the path in the job's data section"
        ) from error
