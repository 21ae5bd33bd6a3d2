"""The controller's half of a save: parts that are durable become one checkpoint. Imports no torch.

`root` is a run's `checkpoints/`. A crash between any two system calls leaves either no checkpoint
or a whole one, because of the order in which `commit` does things:

1. The tensors lie in `pending/`, durable and read back, before a worker sends its part.
2. The small files are written beside them, each with fsync.
3. The manifest is written under another name, with fsync; then every folder is synced, so that
   the names of all files survive a loss of power; only then is it renamed to `manifest.json`.
4. The directory is renamed out of the gate. A rename within one file system is atomic: whoever
   looks sees a directory in `pending/`, which is never read as a checkpoint, or a whole one. Where
   another controller has followed this one, the rename fails (`gate`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dougong.checkpoint import merge
from dougong.checkpoint.directories import (
    INDEX_FILE,
    MANIFEST,
    MODEL,
    committed_directory,
    gate_of,
    pending_directory,
)
from dougong.checkpoint.disk import digest, opened, storage_error, sync_directory, write_new
from dougong.checkpoint.manifest import MODEL_GROUP, FileRecord, Manifest
from dougong.checkpoint.part import CheckpointPart, StateShape
from dougong.checkpoint.proof.sense import count_held
from dougong.checkpoint.proof.signing import KeyStanding, SignatureError, SigningKey
from dougong.errors import CheckpointError

_SIGN_ROOM = "free some, then the same command again"


@dataclass(frozen=True)
class Additions:
    """What the controller adds to the workers' parts.

    `metadata` is kept in the manifest as it is (JSON). `expected`: tensors that the parts must
    hold. `companions`: small files for `model/`, by name; where a worker has written one of that
    name, this one is meant. `key`: by which the manifest is signed.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    expected: Sequence[StateShape] = ()
    companions: Mapping[str, bytes] = field(default_factory=dict)
    key: SigningKey | None = None


def commit(
    root: Path,
    step: int,
    generation: int,
    parts: Sequence[CheckpointPart],
    additions: Additions | None = None,
    fence: int = 0,
) -> Path:
    """Make one checkpoint of the parts that all workers of a generation have reported durable.

    `fence`: the number of this controller, whose gate is open; 0 in tools. Returns the directory.
    Raises `CheckpointError` when parts overlap, miss something, or
    contradict each other or the files; nothing is committed then. Once this returns, the checkpoint
    survives a loss of power.
    """
    additions = additions or Additions()
    pending = pending_directory(root, step, generation, fence)
    try:
        merge.check_origin(parts, step, generation, pending.name)
        merged = merge.merge_parts(parts, additions.expected)
        _check_sizes(pending, merged.files)
        texts = _small_files(merged, additions.companions)
        small = _write_small_files(pending, texts)
        files = {**merged.files, **small}
        manifest = Manifest(
            step=step,
            generation=generation,
            fence=fence,
            metadata=_metadata(additions, parts),
            files=files,
            tensors=merged.model.tensors,
            keep_float32=tuple(sorted(set(merged.model.keep_float32))),
            held=_held_by(files),
        )
        return _publish(root, pending, manifest, additions.key)
    except OSError as error:
        raise storage_error(pending, error) from error


def _held_by(files: Mapping[str, FileRecord]) -> dict[str, int]:
    groups: list[str] = []
    for record in files.values():
        groups += [entry.group for entry in record.entries]
    return count_held(groups)


def _metadata(additions: Additions, parts: Sequence[CheckpointPart]) -> dict[str, Any]:
    metadata = dict(additions.metadata)
    for part in parts:
        if part.ledger is not None:
            metadata["ledger"] = part.ledger
    return metadata


def _check_sizes(pending: Path, files: Mapping[str, FileRecord]) -> None:
    for name, record in files.items():
        with opened(pending / name) as fd:
            actual = os.fstat(fd).st_size
        if actual != record.num_bytes:
            raise CheckpointError(
                f"{pending / name}: {actual} bytes, its writers reported {record.num_bytes}; "
                "is the run directory on storage that all nodes share?"
            )


def _small_files(merged: merge.MergedParts, companions: Mapping[str, bytes]) -> dict[str, bytes]:
    """What lies beside the tensors: the model's own files, the index, the companions."""
    texts = {f"{MODEL}/{name}": text.encode() for name, text in merged.model.files.items()}
    texts |= {f"{MODEL}/{name}": data for name, data in companions.items()}
    texts[INDEX_FILE] = _index(merged.files)
    # What the workers have written is durable already, and never written twice.
    return {name: data for name, data in texts.items() if name not in merged.files}


def _write_small_files(pending: Path, texts: Mapping[str, bytes]) -> dict[str, FileRecord]:
    for name, data in texts.items():
        (pending / name).parent.mkdir(parents=True, exist_ok=True)
        # A commit that storage has refused may have left one, perhaps half written.
        (pending / name).unlink(missing_ok=True)
        write_new(pending / name, data)
    return {name: FileRecord(len(data), digest(data)) for name, data in texts.items()}


def _index(files: Mapping[str, FileRecord]) -> bytes:
    """Hugging Face's index of a model in several files."""
    weight_map: dict[str, str] = {}
    total_size = 0
    for file, record in files.items():
        for entry in record.entries:
            if entry.group == MODEL_GROUP:
                weight_map[entry.name] = file.removeprefix(f"{MODEL}/")
                total_size += entry.num_bytes
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _publish(root: Path, pending: Path, manifest: Manifest, key: SigningKey | None) -> Path:
    target = committed_directory(root, manifest.step, manifest.generation)
    if target.exists():
        raise CheckpointError(
            f"{target}: exists already; one step of one generation is never written twice"
        )
    unfinished = pending / f".{MANIFEST}"
    # A controller that died here may have left one, perhaps half written.
    unfinished.unlink(missing_ok=True)
    data = manifest.to_bytes(key)
    # By the eyes of whoever will read it: one that would be refused must not become a checkpoint.
    Manifest.from_bytes(data, pending / MANIFEST, key)
    write_new(unfinished, data)
    for folder in [path for path in pending.rglob("*") if path.is_dir()]:
        sync_directory(folder)
    unfinished.rename(pending / MANIFEST)
    # The manifest's name must be durable before the directory leaves pending/: else a loss of power
    # could keep the second rename and lose the first, and leave a directory without a manifest.
    sync_directory(pending)
    pending.rename(target)
    sync_directory(root)
    sync_directory(gate_of(root, manifest.fence))
    return target


def sign_anew(directory: Path, key: SigningKey) -> None:
    """Sign a checkpoint that somebody vouches for: its manifest is replaced by the same one with
    this key's signature. CheckpointError where it bears this key's name and was changed since,
    for that nobody vouches by mistake; and where storage refuses. It stays as it was then, with
    nothing beside it."""
    manifest = Manifest.load(directory)
    try:
        Manifest.load(directory, key)
    except SignatureError as error:
        if error.standing is KeyStanding.WRONG:
            raise
    else:
        return
    unfinished = directory / f".{MANIFEST}"
    try:
        unfinished.unlink(missing_ok=True)
        write_new(unfinished, manifest.to_bytes(key))
        unfinished.replace(directory / MANIFEST)
        sync_directory(directory)
    except OSError as error:
        with contextlib.suppress(OSError):  # the storage may take nothing at all now
            unfinished.unlink(missing_ok=True)
        raise storage_error(unfinished, error, "a signature", _SIGN_ROOM) from error
