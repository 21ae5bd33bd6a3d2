"""A checkpoint's model as a plain Hugging Face folder: whole tensors under usual file names.
Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dougong.checkpoint.directories import INDEX_FILE, MODEL, list_committed
from dougong.checkpoint.disk import (
    digest,
    opened,
    read_into,
    storage_error,
    sync_directory,
    write_at,
    write_new,
)
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, Manifest
from dougong.checkpoint.repository import newest_valid
from dougong.checkpoint.tensorfile import TensorShape, plan_layout
from dougong.checkpoint.verify import verify
from dougong.errors import CheckpointError

SHARD_BYTES = 5 << 30
DTYPES = ("float32", "bfloat16")


def choose(
    root: Path, step: int | None = None, on_invalid: Callable[[Path, str], None] | None = None
) -> Path:
    """The checkpoint to export from a run's `checkpoints/`: the newest valid one, or that of
    `step`, verified."""
    if step is None:
        newest = newest_valid(root, on_invalid)
        if newest is None:
            raise CheckpointError(
                f"{root}: holds no valid checkpoint; `dougong verify` says what is wrong"
            )
        return newest
    places = [p for p in list_committed(root) if p.step == step]
    results = [verify(place.path) for place in places]
    for result in results:
        if result.ok:
            return result.directory
    if results:
        raise CheckpointError(f"{results[0]}; choose another --step")
    steps = ", ".join(str(p.step) for p in reversed(list_committed(root))) or "none"
    raise CheckpointError(f"{root}: no checkpoint of step {step}; there are: {steps}")


def export(
    directory: Path, out: Path, dtype: str = "float32", shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write the model of one checkpoint to the folder `out`, whole or not at all; returns the
    files.

    Every tensor is verified as it is read. `bfloat16` rounds to the nearest (ties to even) and
    keeps in float32 what the family keeps so. Raises `CheckpointError` when `out` holds anything,
    or the checkpoint is damaged.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r}: a model is exported as one of {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: is not empty; give a folder that does not exist yet")
    manifest = Manifest.load(directory)
    unfinished = out.parent / f".{out.name}.unfinished"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_folder(_Export(directory, manifest, unfinished, dtype), shard_bytes)
        sync_directory(unfinished)
        unfinished.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(out.iterdir())


@dataclass(frozen=True)
class _Whole:
    """A tensor on disk with the places of its bytes: one, or one a row."""

    shape: TensorShape
    places: tuple[tuple[str, Entry], ...]


@dataclass(frozen=True)
class _Export:
    directory: Path
    manifest: Manifest
    out: Path
    dtype: str

    def word(self, entry: Entry) -> str:
        """The dtype that a tensor gets."""
        narrow = (
            self.dtype == "bfloat16"
            and entry.dtype == "F32"
            and entry.name not in self.manifest.keep_float32
        )
        return "BF16" if narrow else entry.dtype


def _write_folder(job: _Export, shard_bytes: int) -> None:
    for name, record in job.manifest.files.items():
        if record.digest is not None and name.startswith(f"{MODEL}/") and name != INDEX_FILE:
            data = _read_plain(job.directory / name, record.num_bytes, record.digest)
            write_new(
                job.out / Path(name).name,
                _with_dtype(data, job.dtype) if name.endswith("/config.json") else data,
            )
    shards = _shards(_wholes(job), shard_bytes)
    total = len(shards)
    files = (
        ["model.safetensors"]
        if total == 1
        else [f"model-{n:05d}-of-{total:05d}.safetensors" for n in _from_1(total)]
    )
    for file, shard in zip(files, shards, strict=True):
        _write_shard(job, file, shard)
    if total > 1:
        weight_map = {
            w.shape.name: file for file, shard in zip(files, shards, strict=True) for w in shard
        }
        size = sum(w.shape.num_bytes for shard in shards for w in shard)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        write_new(job.out / Path(INDEX_FILE).name, text.encode())


def _from_1(count: int) -> range:
    return range(1, count + 1)


def _wholes(job: _Export) -> list[_Whole]:
    places: dict[str, list[tuple[str, Entry]]] = {}
    for file, entry in job.manifest.entries():
        if entry.group == MODEL_GROUP:
            places.setdefault(entry.name, []).append((file, entry))
    found = []
    for name, held in sorted(places.items()):
        held.sort(key=lambda place: place[1].row or 0)
        first = held[0][1]
        shape = first.shape if first.row is None else (len(held), *first.shape)
        found.append(_Whole(TensorShape(name, job.word(first), shape), tuple(held)))
    return found


def _shards(wholes: Sequence[_Whole], shard_bytes: int) -> list[list[_Whole]]:
    """In order, each at most `shard_bytes` (a larger tensor gets a file of its own)."""
    shards: list[list[_Whole]] = [[]]
    size = 0
    for whole in wholes:
        if shards[-1] and size + whole.shape.num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(whole)
        size += whole.shape.num_bytes
    return shards


def _write_shard(job: _Export, file: str, shard: Sequence[_Whole]) -> None:
    layout = plan_layout(w.shape for w in shard)
    with opened(job.out / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        write_at(fd, layout.header, 0)
        for whole in shard:
            _write_whole(job, fd, whole, layout.offsets[whole.shape.name])
        os.fsync(fd)


def _write_whole(job: _Export, fd: int, whole: _Whole, offset: int) -> None:
    for source, entry in whole.places:
        data = _read_entry(job.directory / source, entry)
        if whole.shape.dtype != entry.dtype:
            data = to_bfloat16(data)
        write_at(fd, data, offset)
        offset += len(data)


def _read_entry(path: Path, entry: Entry) -> bytearray:
    data = bytearray(entry.num_bytes)
    with opened(path) as fd:
        read_into(fd, memoryview(data), entry.offset)
    if digest(data) != entry.digest:
        raise CheckpointError(
            f"{path}: {entry.label}: damaged; choose another --step, see `dougong verify`"
        )
    return data


def _read_plain(path: Path, num_bytes: int, expected: str) -> bytes:
    data = path.read_bytes()
    if len(data) != num_bytes or digest(data) != expected:
        raise CheckpointError(f"{path}: damaged; choose another --step, see `dougong verify`")
    return data


def _with_dtype(config: bytes, dtype: str) -> bytes:
    values = json.loads(config)
    values["dtype"] = dtype
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def to_bfloat16(data: bytes | bytearray) -> bytearray:
    """float32 bytes to bfloat16 bytes, rounding to nearest, ties to even; every NaN becomes
    0x7fc0."""
    bits = np.frombuffer(data, "<u4")
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(
        16
    )
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return bytearray(np.where(is_nan, np.uint32(0x7FC0), rounded).astype("<u2").tobytes())
