"""Where tokens lie: memory-mapped files of token ids, whoever wrote them. Imports no torch.

A `TokenFile` is a run of unsigned or signed integers inside a file. Read here is the format of
`tokens: FILE.bin`: bare little-endian ids, uint16, unless `FILE.bin.json` beside it says otherwise:

    {"dtype": "uint32", "tokens": 123456}

`tokens` is optional; with it a file that was cut at a whole token is noticed too. A .npy file of
one dimension says by itself what it holds. Nothing says whether the type is right, so a sample is
looked at (`token_widths`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dougong.data.documents.formats import HEAD_BYTES, NPY_MAGIC, is_text, kind_of, rows
from dougong.data.token_widths import refuse_other_width
from dougong.errors import DataError

# A file of up to this many tokens is digested and checked whole when it is opened; of a longer
# one, samples.
WHOLE_TOKENS = 1 << 26
_DTYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "int32": "<i4", "int64": "<i8"}
_LARGEST_UINT16 = 1 << 16
# Fewer bytes may be the first ids.
_LEAST_MAGIC = 3
NUM_SAMPLES = 64
SAMPLE_TOKENS = 1 << 18


@dataclass(frozen=True)
class Tokenized:
    """Of which text, by which tokenizer (of so many ids) token ids were made."""

    text: str
    tokenizer: str
    num_ids: int

    def outside(self, token: int, found: int, vocab_size: int) -> DataError:
        """The error for an id at place `token` that the model's vocabulary does not have."""
        return DataError(
            f"{self.text}: token {token}: id {found} of the tokenizer {self.tokenizer} is outside "
            f"the model's vocabulary (0 .. {vocab_size - 1}); raise model.config.vocab_size to at "
            f"least {self.num_ids}, the tokenizer's ids, or name the model's own in data.tokenizer"
        )


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A stream of token ids in a memory-mapped file."""

    path: Path
    ids: npt.NDArray[Any]
    offset: int = 0
    """The byte at which the ids begin."""
    made_of: Tokenized | None = None
    """What a user knows them by, where the file is not the user's own."""

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
        ids = self.ids[start : start + count]
        if count == 0 or (int(ids.max()) < vocab_size and int(ids.min()) >= 0):
            return
        first = start + int(np.flatnonzero((ids >= vocab_size) | (ids < 0))[0])
        raise self._outside(first, vocab_size)

    def _outside(self, token: int, vocab_size: int) -> DataError:
        found = int(self.ids[token])
        if self.made_of is not None:
            return self.made_of.outside(token, found, vocab_size)
        place = self.offset + token * self.ids.itemsize
        return DataError(
            f"{self.path}: byte {place} (token {token}): id {found} is outside the vocabulary "
            f"(0 .. {vocab_size - 1}); {self._remedy(found)}"
        )

    def _remedy(self, found: int) -> str:
        other_type = f"or its type is not {self.ids.dtype}"
        if found < 0:
            return (
                "ids are never negative: the file holds other numbers, such as labels, "
                f"{other_type}"
            )
        return (
            "tokenise with the model's tokenizer, or raise model.config.vocab_size to at least "
            f"{self._largest() + 1}, {other_type}"
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
            total.update(self.ids[start : start + SAMPLE_TOKENS].astype("<u4").tobytes())
        return total.hexdigest()

    def _digested(self) -> list[int]:
        if self.num_tokens <= WHOLE_TOKENS:
            return list(range(0, self.num_tokens, SAMPLE_TOKENS))
        last = self.num_tokens - SAMPLE_TOKENS
        return [last * i // (NUM_SAMPLES - 1) for i in range(NUM_SAMPLES)]

    def _largest(self) -> int:
        return int(self.ids[:WHOLE_TOKENS].max())


def map_ids(path: Path, dtype: str, num_tokens: int | None = None) -> TokenFile:
    """Map `path` as ids of the numpy type `dtype`; with `num_tokens` the file must hold exactly so
    many.

    Raises DataError for a file that is missing, empty, or cut short.
    """
    size, width = file_size(path), np.dtype(dtype).itemsize
    if size == 0:
        raise DataError(
            f"{path}: byte 0: the file is empty; a token file holds at least one sequence of ids"
        )
    if num_tokens is not None:
        _check_length(path, size, num_tokens, width)
    if size % width:
        raise DataError(
            f"{path}: byte {size - size % width}: the file ends inside a token ({size} bytes, "
            f"{width} a token); it is truncated, or its type is another: copy it again, or name "
            f'the type in {path.name}.json ({{"dtype": "uint32"}})'
        )
    return TokenFile(path, np.memmap(path, dtype=np.dtype(dtype), mode="r"))


def _check_length(path: Path, size: int, num_tokens: int, width: int) -> None:
    need = num_tokens * width
    if size != need:
        raise DataError(
            f"{path}: byte {min(size, need)}: the file has {size} bytes where {num_tokens} tokens "
            f"of {width} bytes take {need}; it is truncated or another index's: write or copy it "
            "again"
        )


def open_tokens(path: Path, vocab_size: int | None) -> TokenFile:
    """Open a token file, `tokens: FILE.bin`; see the module's text for the format. `vocab_size` is
    the model's, None where it is not known.

    Raises DataError for a file that is damaged, that is something else, or whose ids are of another
    type than is said.
    """
    beginning = _beginning(path)
    if beginning.startswith(NPY_MAGIC):
        return _open_npy(path)
    if path.with_name(path.name + ".json").exists():
        opened = open_described(path)
    else:
        _refuse_other_kinds(path, beginning)
        _refuse_uint16(path, vocab_size)
        opened = map_ids(path, _DTYPES["uint16"])
    refuse_other_width(path, opened.ids, vocab_size)
    return opened


def open_described(path: Path) -> TokenFile:
    """A file of bare ids as the description beside it says, FILE.json; no more is asked. Raises
    DataError for one that is damaged."""
    values = _read_description(path.with_name(path.name + ".json"))
    return map_ids(path, _DTYPES[values["dtype"]], values.get("tokens"))


def _beginning(path: Path) -> bytes:
    if file_size(path) == 0:
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    kind = kind_of(head, _LEAST_MAGIC) or rows(path, head)
    if kind is not None:
        raise DataError(f"data.tokens: {path}: is {kind.name}, not token ids; {kind.remedy}")
    if is_text(head):
        raise DataError(f"data.tokens: {path}: is text, not token ids; name it in data.text")


def _refuse_uint16(path: Path, vocab_size: int | None) -> None:
    if vocab_size is not None and vocab_size > _LARGEST_UINT16:
        raise DataError(
            f"{path}: nothing says of what type its ids are, and uint16 cannot hold this "
            f"vocabulary of {vocab_size}; name the type in {path.name}.json, beside it: "
            '{"dtype": "uint32"}'
        )


def _open_npy(path: Path) -> TokenFile:
    """A .npy file: its header says of what type and shape the ids are."""
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a whole .npy file ({error}); save it again") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        shape = "x".join(map(str, ids.shape)) or "no"
        raise DataError(
            f"{path}: holds {ids.dtype} of shape {shape}; token ids are integers in one "
            "dimension: np.save(FILE, np.concatenate(documents).astype(np.uint32))"
        )
    if ids.size == 0:
        raise DataError(f"{path}: holds no id; tokenise a text that is not empty")
    return TokenFile(path, ids, ids.offset)


def _read_description(path: Path) -> dict[str, Any]:
    types = " or ".join(f'"{name}"' for name in _DTYPES)
    rule = f'it must be {{"dtype": {types}, "tokens": NUMBER}}, "tokens" optional'
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {rule}") from error
    if not _is_description(values):
        raise DataError(f"{path}: holds {json.dumps(values)[:200]}; {rule}")
    return dict(values)


def _is_description(values: Any) -> bool:
    if not isinstance(values, dict) or not values.keys() <= {"dtype", "tokens"}:
        return False
    # A bool is an int to isinstance, and no number of tokens.
    return values.get("dtype") in _DTYPES and type(values.get("tokens", 0)) is int


def file_size(path: Path) -> int:
    """Bytes of a file. Raises DataError when it cannot be opened."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); check the path in the job's data section"
        ) from error
