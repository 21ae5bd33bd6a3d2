"""From text to token ids: bytes as they are, or a Hugging Face tokenizer. Imports no torch."""

from __future__ import annotations

import codecs
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dougong.data.documents.formats import refuse_other_than_json
from dougong.data.documents.text import Block
from dougong.data.pieces import PIECE_CHARACTERS, pieces_of
from dougong.data.special_tokens import Bos, DocumentMarks, find_marks
from dougong.errors import DataError
from dougong.job.tokenizer_choice import BYTES, NUM_BYTES
from dougong.models.stored.folder import read_json
from dougong.remarks import NOTHING, Remarks

# Pieces that a tokenizer is given at once: it works on them on as many cores.
_PIECES_AT_ONCE = 32

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(Protocol):
    """What turns text into ids. `start` and `end`: the ids written before and after each document,
    if there are any; `remarks`: what a person is told of it once."""

    @property
    def name(self) -> str: ...
    @property
    def num_ids(self) -> int: ...
    @property
    def start(self) -> tuple[int, ...]: ...
    @property
    def end(self) -> int | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def remarks(self) -> Remarks: ...

    def encode(self, blocks: Iterable[Block]) -> Iterator[npt.NDArray[np.int64]]:
        """Ids of the consecutive blocks of one document, int64, some at a time: the same ids
        wherever the blocks were cut. UnicodeDecodeError, with the place in the document's file, for
        bytes that are not UTF-8."""


@dataclass(frozen=True)
class Bytes:
    """Every byte is its own id, 256 in all; a document ends with byte 0, which text lacks."""

    name: str = BYTES
    num_ids: int = NUM_BYTES
    start: tuple[int, ...] = ()
    end: int | None = 0
    digest: str = "bytes"
    remarks: Remarks = NOTHING

    def encode(self, blocks: Iterable[Block]) -> Iterator[npt.NDArray[np.int64]]:
        for _, block in blocks:
            yield np.frombuffer(block, dtype=np.uint8).astype(np.int64)


@dataclass(frozen=True)
class HuggingFace:
    """A `tokenizers` model; no special tokens are added but the `marks` around a document.
    `piece_characters`: how much of a long document it is given at once."""

    name: str
    model: tokenizers.Tokenizer
    marks: DocumentMarks
    piece_characters: int = PIECE_CHARACTERS

    @property
    def num_ids(self) -> int:
        return max(self.model.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def start(self) -> tuple[int, ...]:
        return self.marks.start

    @property
    def end(self) -> int | None:
        return self.marks.end

    @property
    def digest(self) -> str:
        identity = f"{self.start} {self.end} {self.model.to_str()}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    @property
    def remarks(self) -> Remarks:
        return self.marks.remarks

    def encode(self, blocks: Iterable[Block]) -> Iterator[npt.NDArray[np.int64]]:
        pieces = pieces_of(_characters(blocks), self._ids, self.piece_characters)
        while taken := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
            texts = [piece.text for piece in taken]
            encoded = self.model.encode_batch_fast(texts, add_special_tokens=False)
            for piece, one in zip(taken, encoded, strict=True):
                yield np.array(one.ids[piece.num_dropped :], dtype=np.int64)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.model.encode(text, add_special_tokens=False).ids
        return ids


def _characters(blocks: Iterable[Block]) -> Iterator[str]:
    """The text of consecutive blocks, which may be cut inside a character."""
    kept, at = b"", 0
    for at, block in blocks:
        text, kept = _decode(kept + block, at - len(kept), is_whole=False)
        at += len(block)
        yield text
    _decode(kept, at - len(kept), is_whole=True)


def _decode(data: bytes, place: int, is_whole: bool) -> tuple[str, bytes]:
    """The text of bytes that begin at `place` of a file, and what is left of them: a character's
    beginning. With `is_whole` nothing may be left."""
    try:
        text, used = codecs.utf_8_decode(data, "strict", is_whole)
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError(
            "utf-8", data, place + error.start, place + error.end, error.reason
        ) from error
    return text, data[used:]


def open_tokenizer(name: str, bos: Bos = "auto") -> Tokenizer:
    """`bytes`, the path of a tokenizer.json, or a Hugging Face folder; `bos`: `data.bos` of a job.

    Raises DataError for anything else.
    """
    if name == BYTES:
        return Bytes()
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"data.tokenizer: {name}: no such file or folder; give `bytes`, a tokenizer.json, "
            "or a Hugging Face folder"
        )
    folder = path if path.is_dir() else path.parent
    file = folder / "tokenizer.json" if path.is_dir() else path
    model = _load(file) if file.exists() else _convert(folder)
    if model.get_vocab_size(with_added_tokens=True) == 0:
        raise DataError(
            f"data.tokenizer: {name}: the tokenizer knows no token: its files are missing or "
            "empty; name a folder that has its tokenizer.json"
        )
    # Some are saved with a limit of their own, beyond which text would be lost.
    model.no_truncation()
    model.no_padding()
    return HuggingFace(name, model, find_marks(folder, model, bos))


def _load(file: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        refuse_other_than_json(file)
        model = tokenizers.Tokenizer.from_file(str(file))
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exception for a file that it cannot parse
        raise DataError(
            f"{file}: not a tokenizer.json ({error}); save one with tokenizer.save_pretrained(DIR)"
        ) from error
    return model


def _convert(folder: Path) -> tokenizers.Tokenizer:
    """A folder of an older format: transformers builds its fast form."""
    from transformers import AutoTokenizer

    command = "AutoTokenizer.from_pretrained(...).save_pretrained(DIR)"
    remedy = f"save it with a tokenizer.json: {command}"
    try:
        whole = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        settings = folder / "tokenizer_config.json"
        if settings.is_file() and "auto_map" in read_json(settings):
            reason = "it needs its own code (auto_map); dougong runs none"
        raise DataError(
            f"{folder}: transformers finds no tokenizer here ({reason}); {remedy}"
        ) from error
    if not getattr(whole, "is_fast", False):
        raise DataError(f"{folder}: {type(whole).__name__} has no fast form; {remedy}")
    model: tokenizers.Tokenizer = whole.backend_tokenizer
    return model
