"""Text, tokenised once: token files in a cache. Imports no torch.

A cache entry is a folder named by the digest of what went in (tokenizer, every document's bytes).
It holds `tokens.bin` and `tokens.bin.json`: the format of `data.tokens`, so it can be copied and
named there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import REMEDY, why_unwritable
from dougong.data.text import Corpus, Document
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.data.tokenizer import Tokenizer
from dougong.errors import DataError

# Part of the cache's key: raise it when the same text would give other tokens.
_FORMAT = "dougong text 2"


def open_corpus(corpus: Corpus, tokenizer: Tokenizer, cache: Path | None) -> TokenFile:
    """The corpus as tokens, from `cache` or tokenised into it now; None: there is no place for it.

    Raises DataError for text without a token, for bytes that are not UTF-8 (with file and offset),
    and for a cache that cannot be written.
    """
    if cache is None:
        raise DataError(
            f"{corpus.name}: {why_unwritable(None)}, so its tokens cannot be kept; {REMEDY}"
        )
    identity = f"{_FORMAT}\n{tokenizer.digest}\n{corpus.key()}"
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
    made_of = Tokenized(corpus.name, tokenizer.name, tokenizer.num_ids)
    return replace(open_described(entry / "tokens.bin"), made_of=made_of)


def _write_entry(entry: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Write the entry beside its place and rename it whole.

    So any number of processes may make one entry at once: whoever is first wins, and the others'
    equal work is thrown away. A crash leaves a folder with another name, which nobody opens.
    """
    # Not by tempfile, whose folders nobody else may read: a cache may be a team's (by its umask).
    unfinished = entry.with_name(f"{entry.name}.{secrets.token_hex(8)}.tmp")
    unfinished.mkdir()
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
    """Write all documents, each with its marks; returns the number of tokens."""
    stored = np.dtype(dtype).newbyteorder("<")
    count = 0
    for document in corpus.documents():
        for ids in encode_document(document, tokenizer):
            file.write(ids.astype(stored).tobytes())
            count += ids.size
    if count == 0:
        raise no_text(corpus)
    return count


def no_text(corpus: Corpus) -> DataError:
    """The error for a corpus without a token."""
    return DataError(
        f"{corpus.name}: byte 0: there is no text in it; name a file or dataset that is not empty"
    )


def encode_document(document: Document, tokenizer: Tokenizer) -> Iterator[npt.NDArray[Any]]:
    """The ids of one document with its marks, some at a time; nothing for an empty one. Raises
    DataError for bytes that are not UTF-8."""
    is_empty = True
    try:
        for ids in tokenizer.encode(document.blocks()):
            if ids.size and is_empty:
                yield np.array(tokenizer.start, dtype=np.int64)
                is_empty = False
            yield ids
    except UnicodeDecodeError as error:
        raise DataError(
            f"{document.name}: byte {error.start}: not UTF-8 ({error.reason}); convert the file "
            "(iconv -f ENCODING -t UTF-8), or leave it out"
        ) from error
    if tokenizer.end is not None and not is_empty:
        yield np.array([tokenizer.end], dtype=np.int64)
