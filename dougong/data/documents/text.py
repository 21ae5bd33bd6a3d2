"""Documents of text, from files. Imports no torch."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dougong.data.documents.formats import BYTE_ORDER_MARK, HEAD_BYTES, refuse_no_text
from dougong.errors import DataError
from dougong.job.data_files import LIBRARY, STDLIB, standard_library
from dougong.remarks import NOTHING, Remarks

BLOCK_BYTES = 1 << 18
"""Documents come in blocks of this size, cut anywhere, so that no long file must fit in memory."""

Block = tuple[int, bytes]
"""Consecutive bytes of a document, and the place of the first of them in its file or row."""


@dataclass(frozen=True)
class Document:
    """One text: its name, and a function that yields its blocks, from the start each time."""

    name: str
    blocks: Callable[[], Iterator[Block]]


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order. `key` reads them and names their content: equal keys are equal
    texts. `remarks`: what a person is told of them once."""

    name: str
    key: Callable[[], str]
    documents: Callable[[], Iterator[Document]]
    remarks: Remarks = NOTHING


def text_files(text: str) -> Corpus:
    """`stdlib`, a file, or a glob (`**` crosses folders), in sorted order.

    Raises DataError if no file is found, and for one that is not plain text.
    """
    if text == STDLIB:
        return _corpus("Python's standard library", LIBRARY, standard_library(LIBRARY))
    files = named_files("data.text", text, "**/*.txt", "check the path, or use `stdlib`")
    return _corpus(text, Path(), files)


def named_files(key: str, name: str, example: str, advice: str) -> list[Path]:
    """`matching_files` of what a job's key names. DataError where there is none, or a folder; with
    an example of its files, and what to do."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise DataError(
            f"{key}: {name}: is a folder; name its files with a glob, such as "
            f"{name.rstrip('/')}/{example}"
        )
    found = matching_files(path)
    if not found:
        raise DataError(f"{key}: {name}: no such file, and no file matches it as a glob; {advice}")
    return found


def matching_files(pattern: Path) -> list[Path]:
    """The file of this name, else those that match it as a glob, sorted."""
    if pattern.is_file():
        return [pattern]
    paths = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    return [path for path in paths if path.is_file()]


def _corpus(name: str, root: Path, files: list[Path]) -> Corpus:
    paths = [root / file for file in files]
    for path in paths:
        with open_file(path) as file:
            refuse_no_text(path, file.read(HEAD_BYTES))
    documents = [Document(str(path), partial(_file_blocks, path)) for path in paths]
    return Corpus(name, partial(_key, paths), lambda: iter(documents))


def _key(paths: list[Path]) -> str:
    return f"files {content_digest(paths)}"


def content_digest(paths: Iterable[Path]) -> str:
    """Hexadecimal digest of what the files hold, in this order, whatever they are called. Raises
    DataError for one that cannot be opened."""
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        total.update(_file_digest(path))
    return total.hexdigest()


def _file_blocks(path: Path) -> Iterator[Block]:
    with open_file(path) as file:
        start = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
        file.seek(start)
        while block := file.read(BLOCK_BYTES):
            if b"\0" in block:
                raise DataError(
                    f"{path}: byte {start + block.index(0)}: a NUL byte, which no text holds; "
                    "convert the file (iconv -f ENCODING -t UTF-8), or leave it out"
                )
            yield start, block
            start += len(block)


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def open_file(path: Path) -> BinaryIO:
    """Its bytes. Raises DataError for one that cannot be opened."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened ({error.strerror}); "
            "check the path in the job's data section and the file's permissions"
        ) from error
