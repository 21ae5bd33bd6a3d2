"""Documents of text, from files. Imports no torch."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dougong.errors import DataError

PIECE_BYTES = 1 << 18
"""Documents come in pieces of about this size, cut at line ends, so that neither one long file nor
its encoding must fit in memory."""

# Parts of the standard library that are not the same on every machine with one version of Python,
# or not its library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """One text: its name, and a function that yields its bytes in pieces, from the start each
    time."""

    name: str
    pieces: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order. `key` names their content: equal keys are equal texts."""

    name: str
    key: str
    documents: Callable[[], Iterator[Document]]


def text_files(text: str) -> Corpus:
    """`stdlib`, a file, or a glob (`**` crosses folders), in sorted order.

    Raises DataError if no file is found.
    """
    if text == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return _corpus("Python's standard library", root, standard_library(root))
    path = Path(text).expanduser()
    if path.is_dir():
        raise DataError(
            f"data.text: {text}: is a folder; name its files with a glob, such as "
            f"{text.rstrip('/')}/**/*.txt"
        )
    files = [path] if path.is_file() else _matching_files(path)
    if not files:
        raise DataError(
            f"data.text: {text}: no such file, and no file matches it as a glob; check the path, "
            "or use `stdlib`"
        )
    return _corpus(text, Path(), files)


def _matching_files(pattern: Path) -> list[Path]:
    paths = [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True))]
    return [path for path in paths if path.is_file()]


def standard_library(root: Path) -> list[Path]:
    """The sources of Python's standard library under `root`, sorted, without tests and what an
    installer adds."""
    kept: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        # What is removed here is not walked: an installer adds thousands of files.
        subfolders[:] = [name for name in subfolders if name not in _NOT_LIBRARY]
        for name in files:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                kept.append(Path(folder, name).relative_to(root))
    return sorted(kept, key=Path.as_posix)


def _corpus(name: str, root: Path, files: list[Path]) -> Corpus:
    paths = [root / file for file in files]
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        total.update(_file_digest(path))
    documents = [Document(str(path), partial(_file_pieces, path)) for path in paths]
    return Corpus(name, f"files {total.hexdigest()}", lambda: iter(documents))


def _file_pieces(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        while lines := file.readlines(PIECE_BYTES):
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
            f"{path}: cannot be opened ({error.strerror}); "
            "check data.text and the file's permissions"
        ) from error
