"""What a name in the data section says about files, by itself. Imports no torch."""

from __future__ import annotations

from pathlib import PurePath

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
