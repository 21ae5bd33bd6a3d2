"""From text to token ids: bytes as they are, or a Hugging Face tokenizer. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from dougong.errors import DataError
from dougong.models.folder import read_json

if TYPE_CHECKING:
    import tokenizers


class Tokenizer(Protocol):
    """What turns text into ids. `end` is the id written after each document, if there is one."""

    @property
    def name(self) -> str: ...
    @property
    def num_ids(self) -> int: ...
    @property
    def end(self) -> int | None: ...
    @property
    def digest(self) -> str: ...

    def encode(self, pieces: list[tuple[int, bytes]]) -> npt.NDArray[np.int64]:
        """Ids of consecutive (byte offset, UTF-8) pieces of one document, int64; UnicodeDecodeError
        for other bytes."""


@dataclass(frozen=True)
class Bytes:
    """Every byte is its own id, 256 in all; a document ends with byte 0, which text lacks."""

    name: str = "bytes"
    num_ids: int = 256
    end: int | None = 0
    digest: str = "bytes"

    def encode(self, pieces: list[tuple[int, bytes]]) -> npt.NDArray[np.int64]:
        data = b"".join(piece for _, piece in pieces)
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)


@dataclass(frozen=True)
class HuggingFace:
    """A `tokenizers` model; no special tokens are added but `end`, the folder's end-of-sequence
    token."""

    name: str
    model: tokenizers.Tokenizer
    end: int | None

    @property
    def num_ids(self) -> int:
        return max(self.model.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def digest(self) -> str:
        identity = f"{self.end} {self.model.to_str()}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()

    def encode(self, pieces: list[tuple[int, bytes]]) -> npt.NDArray[np.int64]:
        texts = [_decode(offset, piece) for offset, piece in pieces]
        encoded = self.model.encode_batch_fast(texts, add_special_tokens=False)
        return np.concatenate([np.array(one.ids, dtype=np.int64) for one in encoded])


def _decode(offset: int, piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError(
            "utf-8", piece, offset + error.start, offset + error.end, error.reason
        ) from error


def open_tokenizer(name: str) -> Tokenizer:
    """`bytes`, the path of a tokenizer.json, or a Hugging Face folder.

    Raises DataError for anything else.
    """
    if name == "bytes":
        return Bytes()
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(name, path)
    if not path.exists():
        raise DataError(
            f"data.tokenizer: {name}: no such file or folder; give `bytes`, a tokenizer.json, "
            "or a Hugging Face folder"
        )
    model = _load(path)
    return HuggingFace(name, model, _end(path.parent, model))


def _open_folder(name: str, folder: Path) -> HuggingFace:
    file = folder / "tokenizer.json"
    model = _load(file) if file.exists() else _convert(folder)
    return HuggingFace(name, model, _end(folder, model))


def _load(file: Path) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a file that it cannot parse
        raise DataError(
            f"{file}: not a tokenizer.json ({error}); save one with tokenizer.save_pretrained(DIR)"
        ) from error
    model.no_truncation()
    model.no_padding()
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


def _end(folder: Path, model: tokenizers.Tokenizer) -> int | None:
    """The id of the end-of-sequence token that the folder's tokenizer_config.json names."""
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return None
    try:
        token = json.loads(file.read_text()).get("eos_token")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise DataError(
            f"{file}: not a JSON object ({error}); copy the tokenizer's folder again"
        ) from error
    text = token.get("content") if isinstance(token, dict) else token
    found = None if text is None else model.token_to_id(text)
    return None if found is None else int(found)
