"""A checkpoint's model as a plain Hugging Face folder: whole tensors under usual file names.

Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dougong.checkpoint.directories import INDEX_FILE, MODEL, refuse_no_folder
from dougong.checkpoint.disk import (
    Buffer,
    digest,
    opened,
    read_file,
    read_into,
    storage_error,
    sync_directory,
    write_at,
    write_new,
)
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, Manifest
from dougong.checkpoint.repository import VerifyResult, newest_valid, valid_one_of
from dougong.checkpoint.tensorfile import TensorShape, not_finite_words, num_not_finite, plan_layout
from dougong.errors import CheckpointError, SourceError
from dougong.ops.adapter_names import is_adapter

SHARD_BYTES = 5 << 30
DTYPES = ("float32", "bfloat16")


def choose(
    root: Path, step: int | None = None, on_invalid: Callable[[VerifyResult], None] | None = None
) -> Path:
    """The checkpoint to export from a run's `checkpoints/`: the newest valid one, or that of
    `step`, verified."""
    refuse_no_folder(root)
    if step is not None:
        return valid_one_of(root, step)
    newest = newest_valid(root, on_invalid)
    if newest is None:
        raise CheckpointError(
            f"{root}: holds no valid checkpoint; `dougong verify` says what is wrong"
        )
    return newest


class Changes(Protocol):
    """What is written in place of a checkpoint's own tensors, and what is left out."""

    files_left_out: frozenset[str]

    def is_left_out(self, name: str) -> bool:
        """Of a tensor, by its name on disk."""
        ...

    def values(self, entry: Entry) -> bytes | None:
        """The float32 bytes of a place; None: as they are."""
        ...


def has_adapters(directory: Path) -> bool:
    """Whether a checkpoint holds some, which are to be merged or written alone."""
    tensors = Manifest.load(directory).tensors
    return any(map(is_adapter, (*tensors.dense, *tensors.experts)))


def export(
    directory: Path,
    out: Path,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
    changes: Changes | None = None,
) -> list[Path]:
    """Write the model of one checkpoint to the folder `out`, whole or not at all; returns the
    files. `changes`: what of it is written otherwise.

    Every tensor is verified as it is read. `bfloat16` rounds to the nearest (ties to even) and
    keeps in float32 what the family keeps so. Raises `SourceError` when `out` holds anything,
    `CheckpointError` when the checkpoint is damaged.
    """
    refuse_request(out, dtype)
    manifest = Manifest.load(directory)
    with whole_folder(out) as unfinished:
        _write_folder(_Export(directory, manifest, unfinished, dtype, changes), shard_bytes)
    return sorted(out.iterdir())


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end; where that fails nothing stays.
    Raises what `storage_error` makes of an OSError."""
    unfinished = out.parent / f".{out.name}.unfinished"
    try:
        # An export that was killed may have left its half; it has a name that nobody looks for.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        sync_directory(unfinished)
        unfinished.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise storage_error(out, error, "the export", "free some, then export again") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def refuse_request(out: Path, dtype: str = DTYPES[0]) -> None:
    """SourceError where nothing can be exported so."""
    if dtype not in DTYPES:
        raise SourceError(f"dtype {dtype!r}: a model is exported as one of {', '.join(DTYPES)}")
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty:
        raise SourceError(f"{out}: is not empty; give a folder that does not exist yet")


@dataclass(frozen=True)
class _Whole:
    """A tensor on disk with the places of its bytes: one, or one a row or a span."""

    shape: TensorShape
    places: tuple[tuple[str, Entry], ...]


@dataclass(frozen=True)
class _Export:
    """One export: from a checkpoint's directory to the folder `out`, in `dtype`."""

    directory: Path
    manifest: Manifest
    out: Path
    dtype: str
    changes: Changes | None

    def dtype_of(self, entry: Entry) -> str:
        """The dtype that a tensor gets, in safetensors' word."""
        if self.dtype != "bfloat16" or entry.dtype != "F32":
            return entry.dtype
        if entry.name in self.manifest.keep_float32:
            return entry.dtype
        return "BF16"


def _write_folder(job: _Export, shard_bytes: int) -> None:
    _copy_small_files(job)
    shards = _shards(_whole_tensors(job), shard_bytes)
    files = _file_names(len(shards))
    for file, shard in zip(files, shards, strict=True):
        _write_shard(job, file, shard)
    if len(shards) > 1:
        write_new(job.out / Path(INDEX_FILE).name, _index(files, shards))


def small_files(directory: Path, manifest: Manifest) -> dict[str, bytes]:
    """What lies beside a checkpoint's weights, by names in its model's folder: configuration,
    tokenizer and the like; not the index. CheckpointError when one of them is damaged."""
    found = {}
    for name, record in manifest.files.items():
        is_of_model = name.startswith(f"{MODEL}/") and name != INDEX_FILE
        if record.digest is not None and is_of_model:
            data = _read_plain(directory / name, record.num_bytes, record.digest)
            found[name.removeprefix(f"{MODEL}/")] = data
    return found


def _copy_small_files(job: _Export) -> None:
    # The index is another one here: the weights lie in other files.
    for name, data in small_files(job.directory, job.manifest).items():
        if job.changes is not None and name in job.changes.files_left_out:
            continue
        target = job.out / name
        target.parent.mkdir(exist_ok=True)
        write_new(target, _with_dtype(data, job.dtype) if name == "config.json" else data)


def _file_names(total: int) -> list[str]:
    if total == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]


def _index(files: Sequence[str], shards: Sequence[Sequence[_Whole]]) -> bytes:
    weight_map: dict[str, str] = {}
    total_size = 0
    for file, shard in zip(files, shards, strict=True):
        for whole in shard:
            weight_map[whole.shape.name] = file
            total_size += whole.shape.num_bytes
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def _whole_tensors(job: _Export) -> list[_Whole]:
    """The model's tensors by name, with the rows and spans of each put in order."""
    places: dict[str, list[tuple[str, Entry]]] = {}
    for file, entry in job.manifest.entries():
        is_left_out = job.changes is not None and job.changes.is_left_out(entry.name)
        if entry.group == MODEL_GROUP and not is_left_out:
            places.setdefault(entry.name, []).append((file, entry))
    return [_whole(job, name, held) for name, held in sorted(places.items())]


def _whole(job: _Export, name: str, held: list[tuple[str, Entry]]) -> _Whole:
    rows = sorted(held, key=lambda place: _number_of(place[1]))
    _, first = rows[0]
    shape = first.shape if first.row is None else (len(rows), *first.shape)
    if first.span is not None:
        shape = first.span.shape
    return _Whole(TensorShape(name, job.dtype_of(first), shape), tuple(rows))


def _number_of(entry: Entry) -> int:
    return entry.row or 0 if entry.span is None else entry.span.begin


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
    layout = plan_layout(whole.shape for whole in shard)
    with opened(job.out / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        write_at(fd, layout.header, 0)
        for whole in shard:
            _write_tensor(job, fd, whole, layout.offsets[whole.shape.name])
        os.fsync(fd)


def _write_tensor(job: _Export, fd: int, whole: _Whole, offset: int) -> None:
    for source, entry in whole.places:
        data = _data_of(job, job.directory / source, entry)
        if whole.shape.dtype != entry.dtype:
            data = to_bfloat16(data)
            _refuse_overflow(data, job, entry)
        write_at(fd, data, offset)
        offset += len(data)


def _data_of(job: _Export, source: Path, entry: Entry) -> bytearray:
    changed = None if job.changes is None else job.changes.values(entry)
    return _read_entry(source, entry) if changed is None else bytearray(changed)


def _refuse_overflow(data: Buffer, job: _Export, entry: Entry) -> None:
    """The checkpoint's values are finite, so what is not finite now was too large."""
    count = num_not_finite(data, "BF16")
    if count:
        raise CheckpointError(
            f"{job.directory}: {entry.label}: bfloat16 cannot hold {count} of its values (at most "
            "3.39e38); export it with --dtype float32"
        )


def _read_entry(path: Path, entry: Entry) -> bytearray:
    data = bytearray(entry.num_bytes)
    with opened(path) as fd:
        read_into(fd, memoryview(data), entry.offset)
    if digest(data) != entry.digest:
        raise CheckpointError(
            f"{path}: {entry.label}: damaged; choose another --step, see `dougong verify`"
        )
    count = num_not_finite(data, entry.dtype)
    if count:
        raise CheckpointError(
            f"{path}: {entry.label}: holds {not_finite_words(count)}; choose another --step, see "
            "`dougong verify`"
        )
    return data


def _read_plain(path: Path, num_bytes: int, expected: str) -> bytes:
    data = read_file(path)
    if len(data) != num_bytes or digest(data) != expected:
        raise CheckpointError(f"{path}: damaged; choose another --step, see `dougong verify`")
    return data


def _with_dtype(config: bytes, dtype: str) -> bytes:
    values = json.loads(config)
    values |= {"dtype": dtype, "torch_dtype": dtype}
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def to_bfloat16(data: bytes | bytearray) -> bytearray:
    """float32 bytes to bfloat16 bytes, rounding to nearest, ties to even.

    bfloat16 is the upper half of a float32. Adding 0x7fff to the lower half carries into the upper
    one where the lower half is more than a half of its range; where it is a half exactly, the upper
    half's last bit is what tips it over: so a tie goes to the even neighbour. The carry may run
    into the exponent, which is right: the next number up has the next exponent, and the largest
    become infinity. A NaN could so lose its mark, hence every NaN becomes 0x7fc0.
    """
    bits = np.frombuffer(data, "<u4")
    half = np.uint32(16)
    last_bit = (bits >> half) & np.uint32(1)
    rounded = (bits + (np.uint32(0x7FFF) + last_bit)) >> half
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return bytearray(np.where(is_nan, np.uint32(0x7FC0), rounded).astype("<u2").tobytes())
