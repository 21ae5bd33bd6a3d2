"""Text, tokenised once: documents from files or Hugging Face datasets, kept as token files in a
cache. No torch.

A cache entry is a folder named by the digest of what went in (tokenizer, every document's bytes),
written beside and renamed whole, so any number of processes may race for it. It holds `tokens.bin`
and `tokens.bin.json`: the format of `data.tokens`, so it can be copied and named there.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dougong.data.token_files import TokenFile, open_tokens
from dougong.data.tokenizer import Tokenizer
from dougong.errors import DataError

if TYPE_CHECKING:
    import datasets

# Part of the cache's key: raise it when the same text would give other tokens.
_FORMAT = "dougong text 1"
# Documents are tokenised in pieces cut at line ends, so that neither one long file nor its encoding
# must fit in memory.
_PIECE_BYTES = 1 << 18
_PIECES_AT_ONCE = 32
# Parts of the standard library that are not the same on every machine with one version of Python,
# or not its library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """One text: its name and a function that yields its bytes in pieces, from the start each
    time."""

    name: str
    pieces: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order. `key` names their content; it is the cache's key with the
    tokenizer's digest."""

    name: str
    key: str
    documents: Callable[[], Iterator[Document]]


def open_corpus(corpus: Corpus, tokenizer: Tokenizer, cache: Path) -> TokenFile:
    """The corpus as tokens, from `cache` or tokenised into it now.

    Raises DataError for text without a token, for bytes that are not UTF-8 (with file and offset),
    and for a cache that cannot be written.
    """
    identity = f"{_FORMAT}\n{tokenizer.digest}\n{corpus.key}"
    entry = cache / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    if not entry.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _write_entry(entry, corpus, tokenizer)
        except OSError as error:
            raise DataError(
                f"{entry}: the token cache cannot be written ({error.strerror}); free or allow it, or tokenise the "
                "text beforehand and name the file in data.tokens"
            ) from error
    return open_tokens(entry / "tokens.bin")


def _write_entry(entry: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    made = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", suffix=".tmp", dir=entry.parent))
    try:
        dtype = "uint16" if tokenizer.num_ids <= 1 << 16 else "uint32"
        with (made / "tokens.bin").open("wb") as file:
            count = _write_tokens(file, dtype, corpus, tokenizer)
            _sync(file)
        with (made / "tokens.bin.json").open("wb") as file:
            file.write(json.dumps({"dtype": dtype, "tokens": count}).encode())
            _sync(file)
        _publish(made, entry)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _publish(made: Path, entry: Path) -> None:
    try:
        made.rename(entry)
    except OSError:
        # Somebody else was first with the same content; a folder that is not empty is never
        # replaced.
        if not entry.exists():
            raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_tokens(file: BinaryIO, dtype: str, corpus: Corpus, tokenizer: Tokenizer) -> int:
    count = 0
    for document in corpus.documents():
        before = count
        for batch in _batches(document):
            try:
                ids = tokenizer.encode(batch)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{document.name}: byte {error.start}: not UTF-8 ({error.reason}); convert the file, or use "
                    "tokenizer: bytes, which takes any bytes"
                ) from error
            file.write(ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
            count += ids.size
        if tokenizer.end is not None and count > before:
            file.write(np.array([tokenizer.end], dtype=np.dtype(dtype).newbyteorder("<")).tobytes())
            count += 1
    if count == 0:
        raise DataError(
            f"{corpus.name}: byte 0: there is no text in it; name a file or dataset that is not empty"
        )
    return count


def _batches(document: Document) -> Iterator[list[tuple[int, bytes]]]:
    """(byte offset, piece) of a document, some pieces at a time."""
    pieces, offset = document.pieces(), 0
    while taken := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
        starts = itertools.accumulate((len(piece) for piece in taken), initial=offset)
        batch = list(zip(starts, taken, strict=False))
        offset = batch[-1][0] + len(batch[-1][1])
        yield batch


def text_files(text: str) -> Corpus:
    """`stdlib`, a file, or a glob (`**` crosses folders), in sorted order. Raises DataError if no
    file is found."""
    if text == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return _corpus("Python's standard library", root, standard_library(root))
    path = Path(text).expanduser()
    if path.is_dir():
        raise DataError(
            f"data.text: {text}: is a folder; name its files with a glob, such as {text.rstrip('/')}/**/*.txt"
        )
    found = (
        [path]
        if path.is_file()
        else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    )
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataError(
            f"data.text: {text}: no such file, and no file matches it as a glob; check the path, or use `stdlib`"
        )
    return _corpus(text, Path(), files)


def standard_library(root: Path) -> list[Path]:
    """The sources of Python's standard library under `root`, sorted, without tests and what an
    installer adds."""
    kept: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [
            name for name in subfolders if name not in _NOT_LIBRARY
        ]  # an installer adds thousands of files
        sources = [
            name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
        kept += [Path(folder, name).relative_to(root) for name in sources]
    return sorted(kept, key=Path.as_posix)


def _corpus(name: str, root: Path, files: list[Path]) -> Corpus:
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        total.update(_file_digest(root / file))
    paths = [root / file for file in files]
    documents = [Document(str(path), partial(_file_pieces, path)) for path in paths]
    return Corpus(name, f"files {total.hexdigest()}", lambda: iter(documents))


def _file_pieces(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        while lines := file.readlines(_PIECE_BYTES):
            yield b"".join(lines)


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with _open(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); check data.text and the file's permissions"
        ) from error


def dataset_rows(name: str) -> Corpus:
    """A Hugging Face dataset: a folder of `save_to_disk`, a folder of data files, or a name on the
    hub; split `train`.

    The text is column `text`, or the only column of strings. Raises DataError if the library, the
    dataset or the column is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.dataset: {name}: needs the package `datasets`; pip install 'dougong[data]'"
        ) from error
    folder = Path(name).expanduser()
    saved = (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists()
    try:
        loaded: Any = datasets.load_from_disk(str(folder)) if saved else _load_dataset(folder, name)
    except Exception as error:  # every builder has errors of its own
        raise DataError(
            f"data.dataset: {name}: cannot be loaded ({type(error).__name__}: {error}); check the name, the split "
            "`train`, and the network"
        ) from error
    rows = loaded["train"] if isinstance(loaded, dict) and "train" in loaded else loaded
    if not isinstance(rows, datasets.Dataset):
        raise DataError(
            f"data.dataset: {name}: has no split `train` but {sorted(rows)}; save the one to train on by itself"
        )
    column = _text_column(name, rows)
    return Corpus(
        name, f"dataset {rows._fingerprint} {column}", lambda: _row_documents(name, rows, column)
    )


def _load_dataset(folder: Path, name: str) -> datasets.Dataset:
    import datasets

    return datasets.load_dataset(str(folder) if folder.is_dir() else name, split="train")


def _text_column(name: str, rows: datasets.Dataset) -> str:
    strings = [
        column
        for column, kind in rows.features.items()
        if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    if "text" in strings:
        return "text"
    if len(strings) != 1:
        raise DataError(
            f"data.dataset: {name}: has no column `text`, and {len(strings)} columns of strings {strings}; rename the "
            "one to train on: dataset.rename_column(OLD, 'text')"
        )
    return str(strings[0])


def _row_documents(name: str, rows: datasets.Dataset, column: str) -> Iterator[Document]:
    for number, value in enumerate(rows.with_format(None).select_columns([column])):
        text = str(value[column] or "")
        yield Document(f"{name}: row {number}", lambda text=text: _string_pieces(text))  # type: ignore[misc]


def _string_pieces(text: str) -> Iterator[bytes]:
    if text:
        yield text.encode()
