"""Is a directory the checkpoint that was written? Every byte of every file is hashed. Imports no
torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dougong.checkpoint.directories import MODEL, step_of
from dougong.checkpoint.disk import digest_range, opened
from dougong.checkpoint.manifest import Entry, FileRecord, Manifest
from dougong.errors import CheckpointError


@dataclass(frozen=True)
class Defect:
    """One thing that is not as it was written. `tensor` is empty where a whole file or its header
    is meant."""

    file: str
    tensor: str
    rule: str
    expected: str
    actual: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.tensor}" if self.tensor else self.file
        return f"{place}: {self.rule}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found. `problems` is empty exactly when the checkpoint may be used."""

    directory: Path
    step: int | None
    num_files: int
    num_tensors: int
    num_bytes: int
    problems: tuple[Defect, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            size = f"{self.num_bytes / 1e6:.1f} MB"
            return f"{self.directory}: step {self.step}: {self.num_files} files, {self.num_tensors} tensors, {size}: ok"
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return f"{self.directory}: not valid: {self.problems[0]}{more}"


def verify(directory: Path, threads: int = 2) -> VerifyResult:
    """Hash everything and compare. Never raises for a damaged checkpoint: the result says what is
    wrong."""
    return _verify(directory, _check_bytes, threads)


def verify_sizes(directory: Path) -> VerifyResult:
    """The cheap check: the manifest's own digest, and every file there with its size. Reads no
    tensor."""
    return _verify(directory, lambda path, name, record: [], 1)


_Check = Callable[[Path, str, FileRecord], list[Defect]]


def _verify(directory: Path, check: _Check, threads: int) -> VerifyResult:
    try:
        manifest = Manifest.load(directory)
    except CheckpointError as error:
        problem = Defect("manifest.json", "", "one whole manifest", "it", str(error))
        return VerifyResult(directory, step_of(directory), 0, 0, 0, (problem,))

    def examine(item: tuple[str, FileRecord]) -> list[Defect]:
        name, record = item
        try:
            found = _check_size(directory / name, name, record)
            return found or check(directory / name, name, record)
        except (OSError, CheckpointError) as error:
            return [Defect(name, "", "readable", f"{record.num_bytes} bytes", str(error))]

    with ThreadPoolExecutor(max_workers=threads) as pool:
        found = [p for problems in pool.map(examine, manifest.files.items()) for p in problems]
    found += _check_step(directory, manifest) + _check_strangers(directory, manifest)
    num_tensors = sum(len(r.entries) for r in manifest.files.values())
    return VerifyResult(
        directory, manifest.step, len(manifest.files), num_tensors, manifest.num_bytes, tuple(found)
    )


def _check_size(path: Path, name: str, record: FileRecord) -> list[Defect]:
    try:
        with opened(path) as fd:
            actual = os.fstat(fd).st_size
    except FileNotFoundError:
        return [Defect(name, "", "present", f"{record.num_bytes} bytes", "no such file")]
    if actual == record.num_bytes:
        return []
    return [Defect(name, "", "size in bytes", str(record.num_bytes), str(actual))]


def _check_bytes(path: Path, name: str, record: FileRecord) -> list[Defect]:
    with opened(path) as fd:
        if record.digest is not None:
            return _compare(
                name, "", "digest", record.digest, digest_range(fd, 0, record.num_bytes)
            )
        problems = []
        if record.header is not None:
            num_bytes, expected = record.header
            problems += _compare(
                name, "", "header's digest", expected, digest_range(fd, 0, num_bytes)
            )
        for entry in record.entries:
            problems += _compare(
                name, entry.label, "digest", entry.digest, _digest_entry(fd, entry)
            )
        return problems


def _digest_entry(fd: int, entry: Entry) -> str:
    return digest_range(fd, entry.offset, entry.num_bytes)


def _compare(file: str, tensor: str, rule: str, expected: str, actual: str) -> list[Defect]:
    return [] if expected == actual else [Defect(file, tensor, rule, expected, actual)]


def _check_step(directory: Path, manifest: Manifest) -> list[Defect]:
    claimed = step_of(directory)
    if claimed is None or claimed == manifest.step:
        return []
    return [
        Defect(
            "manifest.json", "", "step of the directory's name", str(claimed), str(manifest.step)
        )
    ]


def _check_strangers(directory: Path, manifest: Manifest) -> list[Defect]:
    """A file in model/ that nobody wrote could be loaded in place of ours (model.safetensors wins
    over the index)."""
    there = {
        p.relative_to(directory).as_posix() for p in (directory / MODEL).rglob("*") if p.is_file()
    }
    strangers = sorted(there - set(manifest.files))
    return [
        Defect(name, "", "only files of the manifest in model/", "no such file", "a file")
        for name in strangers
    ]
