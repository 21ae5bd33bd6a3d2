"""Which files a name means, and what a file of rows is, by its name and by its first bytes. Imports
no torch."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from pathlib import Path, PurePath

BUILDERS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
}
"""Suffix of a file of rows -> the builder of the package `datasets` that reads it."""
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_WILD = "*?["
_HEAD_BYTES = 4096
_ARRAY = re.compile(rb'\[\s*\{\s*"[^"]*"\s*:')
_CUT_ROW = re.compile(rb'\{\s*"[^"]*"\s*:\s*"')

TEXT_COLUMN = "text"
"""Of a data set whose column is not named."""
STDLIB = "stdlib"
"""`data.text` that means Python's standard library."""
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
# Parts of the standard library that are not the same on every machine with one version of Python,
# or not its library.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def builder_of(name: str) -> str | None:
    """The builder for a file of rows, compressed or not; None where its name says nothing."""
    path = PurePath(name)
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return BUILDERS.get(path.suffix)


def is_pattern(name: str) -> bool:
    """Whether a name is a glob."""
    return any(sign in name for sign in _WILD)


def names_files(name: str) -> bool:
    """Whether `data.dataset` means files of this machine, not a folder or a name on the hub."""
    return is_pattern(name) or builder_of(name) is not None


def ending_by_content(file: Path) -> str | None:
    """The ending that a file should have by its first bytes; None where they are no rows. OSError
    where it cannot be read."""
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    for magic, ending in ((b"PAR1", ".parquet"), (b"ARROW1", ".arrow")):
        if head.startswith(magic):
            return ending
    return ending_of_json(head)


def ending_of_json(head: bytes) -> str | None:
    """`.jsonl` for lines of JSON objects with a text in the first of them, `.json` for an array of
    objects, by the first bytes of a file; None for one object over several lines, and for all
    else."""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _ARRAY.match(head):
        return ".json"
    line, newline, rest = head.partition(b"\n")
    if not newline and len(head) > _HEAD_BYTES // 2 and _CUT_ROW.match(line):
        return ".jsonl"  # the first row is longer than what was read of it
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_row = isinstance(row, dict) and any(isinstance(value, str) for value in row.values())
    return ".jsonl" if is_row and rest.lstrip()[:1] in (b"", b"{") else None


def wrong_ending(ending: str) -> str:
    """The words for a file of rows that is not called as one."""
    return f"holds rows, but its ending is another: rename it to {ending}"


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
