"""Text, tokenised once: token files in a cache. Imports no torch.

A cache entry is a folder named by the digest of what went in (tokenizer, every document's bytes).
It holds `tokens.bin` and `tokens.bin.json`: the format of `data.tokens`, so it can be copied and
named there; and `starts.bin` likewise, the places at which documents begin.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dougong.control.cache_place import REMEDY, why_unwritable
from dougong.data.documents.text import Corpus, Document
from dougong.data.token_files import TokenFile, Tokenized, open_described
from dougong.data.tokenizer import Tokenizer
from dougong.errors import DataError

STARTS, STARTS_TYPE = "starts.bin", "int64"
"""An entry's file of the places at which documents begin, ascending."""
# Part of the cache's key: raise it when the same text would give other tokens.
_FORMAT = "dougong text 2"


def open_corpus(
    corpus: Corpus, tokenizer: Tokenizer, cache: Path | None, with_starts: bool = False
) -> TokenFile:
    """The corpus as tokens, from `cache` or tokenised into it now; None: there is no place for it.
    `with_starts`: `starts_of` will be asked for.

    Raises DataError for text without a token, for bytes that are not UTF-8 (with file and offset),
    and for a cache that cannot be written.
    """
    identity = f"{_FORMAT}\n{tokenizer.digest}\n{corpus.key()}"
    name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if with_starts and cache is not None and _lacks_starts(cache / name):
        name = f"{name}-documents"

    def write(folder: Path) -> None:
        with (
            write_described(folder / "tokens.bin", dtype_of(tokenizer.num_ids)) as file,
            write_described(folder / STARTS, STARTS_TYPE) as starts,
        ):
            _write_tokens(file, starts, corpus, tokenizer)

    entry = make_entry(cache, name, corpus.name, write)
    made_of = Tokenized(corpus.name, tokenizer.name, tokenizer.num_ids)
    return replace(open_described(entry / "tokens.bin"), made_of=made_of)


def starts_of(tokens: TokenFile) -> TokenFile:
    """Where the documents of an entry's tokens begin."""
    return open_described(tokens.path.with_name(STARTS))


def _lacks_starts(entry: Path) -> bool:
    """Whether an older release has made an entry: nobody's entry is changed, so that of its
    documents is another."""
    return entry.exists() and not (entry / STARTS).exists()


def make_entry(cache: Path | None, name: str, about: str, write: Callable[[Path], None]) -> Path:
    """The folder of an entry, made by `write` if it is not there; None: there is no place for it.
    `about`: the data, in words. Raises DataError where it cannot be kept.

    It is written beside its place and renamed whole, so any number of processes may make one entry
    at once: whoever is first wins, and the others' equal work is thrown away. A crash leaves a
    folder with another name, which nobody opens.
    """
    if cache is None:
        raise DataError(f"{about}: {why_unwritable(None)}, so its tokens cannot be kept; {REMEDY}")
    entry = cache / name
    if entry.exists():
        return entry
    # Not by tempfile, whose folders nobody else may read: a cache may be a team's (by its umask).
    unfinished = entry.with_name(f"{entry.name}.{secrets.token_hex(8)}.tmp")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        write(unfinished)
        _publish(unfinished, entry)
    except OSError as error:
        raise DataError(
            f"{entry}: the token cache cannot be written ({error.strerror}); make room or "
            f"allow it, or {REMEDY}; or tokenise the text beforehand and name the file in "
            "data.tokens"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return entry


def dtype_of(num_ids: int) -> str:
    """The narrowest type of a token file that so many ids go into."""
    return "uint16" if num_ids <= 1 << 16 else "uint32"


@dataclass
class DescribedWriter:
    """Whole numbers into a token file. `count`: how many there are."""

    file: BinaryIO
    dtype: str
    count: int = 0

    def write(self, values: npt.NDArray[Any]) -> None:
        self.file.write(values.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes())
        self.count += values.size


@contextmanager
def write_described(path: Path, dtype: str) -> Iterator[DescribedWriter]:
    """A token file of that type; the description beside it is written at the end."""
    with path.open("wb") as file:
        writer = DescribedWriter(file, dtype)
        yield writer
        _sync(file)
    values = {"dtype": dtype, "tokens": writer.count}
    write_json(path.with_name(f"{path.name}.json"), values)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A small file of an entry, on the disk when this returns."""
    with path.open("wb") as file:
        file.write(json.dumps(values).encode())
        _sync(file)


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


def _write_tokens(
    file: DescribedWriter, starts: DescribedWriter, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    """Write all documents, each with its marks, and where each begins."""
    for document in corpus.documents():
        start = file.count
        for ids in encode_document(document, tokenizer):
            file.write(ids)
        if file.count > start:
            starts.write(np.array([start]))
    if file.count == 0:
        raise no_text(corpus)


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
