"""The manifest: the one file that makes a directory a checkpoint. It names every file, tensor and
digest, and carries its own. Imports no torch.

    {"format": "dougong.checkpoint/1", "digest": of the body's canonical JSON, "body": {
        "step", "generation", "header": {...},
        "files": {"model/config.json": {"bytes", "digest"},
                  "model/model-rank00000.safetensors": {"bytes", "header": [bytes, digest],
                      "tensors": [[group, name, row, offset, bytes, dtype, shape, digest], ...]}},
        "logical": {"dense": {name: shape}, "experts": {"site.param": [rows, *shape]}},
        "keep_float32": [tensor names]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dougong.checkpoint.directories import MANIFEST
from dougong.checkpoint.disk import digest
from dougong.checkpoint.tensorfile import ITEM_BYTES
from dougong.errors import CheckpointError

FORMAT = "dougong.checkpoint/1"
MODEL_GROUP = "model"

EntryKey = tuple[str, str, int | None]


@dataclass(frozen=True)
class Entry:
    """Where one tensor's bytes lie. `row`: one expert's row of a tensor `[E, ...]`; `shape` is then
    the row's."""

    group: str
    name: str
    row: int | None
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    digest: str

    @property
    def key(self) -> EntryKey:
        return (self.group, self.name, self.row)

    @property
    def label(self) -> str:
        """The tensor as messages name it."""
        name = self.name if self.row is None else f"{self.name}[{self.row}]"
        return name if self.group == MODEL_GROUP else f"{self.group} of {name}"

    def to_list(self) -> list[Any]:
        row = [
            self.group,
            self.name,
            self.row,
            self.offset,
            self.num_bytes,
            self.dtype,
            list(self.shape),
            self.digest,
        ]
        return row

    @staticmethod
    def from_list(raw: list[Any]) -> Entry:
        group, name, row, offset, num_bytes, dtype, shape, checksum = raw
        return Entry(group, name, row, offset, num_bytes, dtype, tuple(shape), checksum)


@dataclass(frozen=True)
class FileRecord:
    """One file: either plain (`digest` of it all) or tensors (`header` digest, and one entry per
    tensor or row)."""

    num_bytes: int
    digest: str | None = None
    header: tuple[int, str] | None = None
    entries: tuple[Entry, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        if self.digest is not None:
            return {"bytes": self.num_bytes, "digest": self.digest}
        header = None if self.header is None else list(self.header)
        return {
            "bytes": self.num_bytes,
            "header": header,
            "tensors": [e.to_list() for e in self.entries],
        }

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> FileRecord:
        if "digest" in raw:
            return FileRecord(raw["bytes"], raw["digest"])
        header = None if raw["header"] is None else (int(raw["header"][0]), str(raw["header"][1]))
        return FileRecord(
            raw["bytes"], None, header, tuple(Entry.from_list(e) for e in raw["tensors"])
        )

    def gap(self) -> str | None:
        """What keeps header and entries from covering the file exactly once; None when they do."""
        if self.digest is not None:
            return None
        if self.header is None:
            return "nobody wrote its header"
        end = self.header[0]
        for entry in sorted(self.entries, key=lambda e: (e.offset, e.num_bytes)):
            if entry.offset != end:
                what = (
                    "bytes {} to {} belong to nobody"
                    if entry.offset > end
                    else "bytes {1} to {0} are written twice"
                )
                return what.format(end, entry.offset) + f" (before {entry.label})"
            end += entry.num_bytes
        return (
            None
            if end == self.num_bytes
            else f"its tensors end at byte {end}, the file at {self.num_bytes}"
        )


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's contents. `header` is the controller's: job identity, plan, data cursor, seed,
    parent."""

    step: int
    generation: int
    header: dict[str, Any]
    files: dict[str, FileRecord]
    logical: dict[str, Any] = field(default_factory=dict)
    keep_float32: tuple[str, ...] = ()

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """(file, entry) of every tensor and row."""
        for file, record in self.files.items():
            for entry in record.entries:
                yield file, entry

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.files.values())

    def to_bytes(self) -> bytes:
        body = {
            "step": self.step,
            "generation": self.generation,
            "header": self.header,
            "files": {name: record.to_dict() for name, record in sorted(self.files.items())},
            "logical": self.logical,
            "keep_float32": list(self.keep_float32),
        }
        text = _canonical(body)
        document = f'{{"format":"{FORMAT}",\n"digest":"{digest(text.encode())}",\n"body":{text}}}\n'
        return document.encode()

    @staticmethod
    def load(directory: Path) -> Manifest:
        """The manifest of a directory, checked against its own digest. Raises `CheckpointError`."""
        path = directory / MANIFEST
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path}: missing; {directory.name} was never committed as a checkpoint"
            ) from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            return _parse(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged: {error}; use another checkpoint") from error


def _parse(data: bytes) -> Manifest:
    document = json.loads(data)
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, this dougong reads {FORMAT!r}")
    body = document["body"]
    actual = digest(_canonical(body).encode())
    if actual != document["digest"]:
        raise ValueError(f"its digest is {actual}, it says {document['digest']}")
    files = {name: FileRecord.from_dict(raw) for name, raw in body["files"].items()}
    for name, record in files.items():
        _check_file(name, record)
    header, logical = body["header"], body["logical"]
    return Manifest(
        body["step"], body["generation"], header, files, logical, tuple(body["keep_float32"])
    )


def _check_file(name: str, record: FileRecord) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name}: leads out of the directory")
    gap = record.gap()
    if gap is not None:
        raise ValueError(f"{name}: {gap}")
    unknown = {e.dtype for e in record.entries} - set(ITEM_BYTES)
    if unknown:
        raise ValueError(f"{name}: unknown dtype {sorted(unknown)}")


def _canonical(body: dict[str, Any]) -> str:
    return json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
