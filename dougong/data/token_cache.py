"""Text, tokenised once: token files in a cache. Imports no torch.

A cache entry is a folder named by the digest of what went in (tokenizer, every document's bytes).
It holds `tokens.bin` and `tokens.bin.json`: the format of `data.tokens`, so it can be copied and
named there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import REMEDY, why_unwritable
from dougong.data.text import Corpus, Document
from dougong.data.token_files import TokenFile, open_tokens
from dougong.data.tokenizer import Tokenizer
from dougong.errors import DataError

# Part of the cache's key: raise it when the same text would give other tokens.
_FORMAT = "dougong text 1"
# A tokenizer works on several pieces at once, on as many cores.
_PIECES_AT_ONCE = 32


def open_corpus(corpus: Corpus, tokenizer: Tokenizer, cache: Path | None) -> TokenFile:
    """The corpus as tokens, from `cache` or tokenised into it now; None: there is no place for it.

    Raises DataError for text without a token, for bytes that are not UTF-8 (with file and offset),
    and for a cache that cannot be written.
    """
    if cache is None:
        raise DataError(
            f"{corpus.name}: {why_unwritable(None)}, so its tokens cannot be kept; {REMEDY}"
        )
    identity = f"{_FORMAT}\n{tokenizer.digest}\n{corpus.key}"
    entry = cache / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if not entry.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _write_entry(entry, corpus, tokenizer)
        except OSError as error:
            raise DataError(
                f"{entry}: the token cache cannot be written ({error.strerror}); make room or "
                f"allow it, or {REMEDY}; or tokenise the text beforehand and name the file in "
                "data.tokens"
            ) from error
    return open_tokens(entry / "tokens.bin")


def _write_entry(entry: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Write the entry beside its place and rename it whole.

    So any number of processes may make one entry at once: whoever is first wins, and the others'
    equal work is thrown away. A crash leaves a folder with another name, which nobody opens.
    """
    unfinished = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", suffix=".tmp", dir=entry.parent))
    try:
        dtype = "uint16" if tokenizer.num_ids <= 1 << 16 else "uint32"
        with (unfinished / "tokens.bin").open("wb") as file:
            count = _write_tokens(file, dtype, corpus, tokenizer)
            _sync(file)
        with (unfinished / "tokens.bin.json").open("wb") as file:
            file.write(json.dumps({"dtype": dtype, "tokens": count}).encode())
            _sync(file)
        _publish(unfinished, entry)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, entry: Path) -> None:
    try:
        unfinished.rename(entry)
    except OSError:
        # Somebody else was first with the same content; a folder that is not empty is never
        # replaced.
        if not entry.exists():
            raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_tokens(file: BinaryIO, dtype: str, corpus: Corpus, tokenizer: Tokenizer) -> int:
    """Write all documents, each with its end; returns the number of tokens."""
    stored = np.dtype(dtype).newbyteorder("<")
    count = 0
    for document in corpus.documents():
        is_empty = True
        for ids in _encode(document, tokenizer):
            file.write(ids.astype(stored).tobytes())
            count += ids.size
            is_empty = is_empty and ids.size == 0
        if tokenizer.end is not None and not is_empty:
            file.write(np.array([tokenizer.end], dtype=stored).tobytes())
            count += 1
    if count == 0:
        raise DataError(
            f"{corpus.name}: byte 0: there is no text in it; "
            "name a file or dataset that is not empty"
        )
    return count


def _encode(document: Document, tokenizer: Tokenizer) -> Iterator[npt.NDArray[Any]]:
    for batch in _batches(document):
        try:
            yield tokenizer.encode(batch)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{document.name}: byte {error.start}: not UTF-8 ({error.reason}); convert the "
                "file, or use tokenizer: bytes, which takes any bytes"
            ) from error


def _batches(document: Document) -> Iterator[list[tuple[int, bytes]]]:
    """(byte offset, piece) of a document, some pieces at a time."""
    pieces, offset = document.pieces(), 0
    while taken := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
        batch = []
        for piece in taken:
            batch.append((offset, piece))
            offset += len(piece)
        yield batch
