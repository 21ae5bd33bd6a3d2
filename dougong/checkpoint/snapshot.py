"""A worker's side of a checkpoint: copy its tensors to staging memory, then write them beside
training.

stage: device -> staging memory (training waits for this only) thread: digest staged memory -> write
-> fsync -> read back, compare -> on_durable(step, directory, part)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.directories import MODEL, pending_directory
from dougong.checkpoint.disk import (
    digest,
    digest_range,
    opened,
    storage_error,
    sync_directory,
    sync_file,
    write_at,
)
from dougong.checkpoint.huggingface import Names, Piece, stored_dtype
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, FileRecord
from dougong.checkpoint.tensorfile import FileLayout, TensorShape, plan_layout
from dougong.errors import CheckpointError

OnDurable = Callable[[int, str, dict[str, Any]], None]


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state. `group`: "model", or an optimizer's word such as "exp_avg"; `name`:
    its logical name."""

    group: str
    name: str
    tensor: Tensor


@dataclass(frozen=True)
class _Staged:
    """One tensor, or row, in staging memory. `key` is its name in the safetensors file."""

    group: str
    name: str
    key: str
    row: int | None
    shape: TensorShape
    memory: Tensor

    @property
    def data(self) -> memoryview:
        return self.memory.reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class _WriteJob:
    """Everything the writer thread needs; it shares nothing else with training."""

    step: int
    directory: Path
    files: dict[str, list[_Staged]]
    state: list[list[Any]]


class Saver:
    """Saves one worker's share of the state. One save at a time; `stage` and `wait` belong to the
    training thread."""

    def __init__(
        self,
        root: Path,
        worker: str,
        rank: int,
        generation: int,
        on_durable: OnDurable,
        names: Names,
    ) -> None:
        """`root`: the run's checkpoints/. `on_durable(step, directory name, part)` is called by the
        writer thread."""
        self._root = root
        self._worker = worker
        self._rank = rank
        self._generation = generation
        self._on_durable = on_durable
        self._names = names
        self._shared = {f"{MODEL}/{file}": layout for file, layout in names.shared_files().items()}
        self._home = {
            name: file for file, layout in self._shared.items() for name in layout.tensors
        }
        self._memory: dict[tuple[str, str, int | None], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def stage(self, step: int, tensors: Iterable[StateTensor], timeout_s: float = 1800.0) -> None:
        """Copy the tensors and start writing them. Once this returns, the caller may change them.

        Waits first for the save before, at most `timeout_s` seconds, and raises what that save
        failed with. Floating tensors are float32 (master weights); anything else raises
        `CheckpointError`, a wrong shape `ModelError`.
        """
        self.wait(timeout_s)
        files: dict[str, list[_Staged]] = {}
        state = []
        for item in tensors:
            state.append([item.group, item.name, list(item.tensor.shape)])
            for file, staged in self._copy(item):
                files.setdefault(file, []).append(staged)
        job = _WriteJob(step, pending_directory(self._root, step, self._generation), files, state)
        self._thread = threading.Thread(
            target=self._run, args=(job,), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Return when no save is under way; its part is durable and `on_durable` has returned.

        Raises the first error of the writer thread (once), or `CheckpointError` after `timeout_s`
        seconds.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise CheckpointError(
                    f"{self._worker}: {self._thread.name} is still being written after {timeout_s:g} s; "
                    "the storage under the run directory is too slow or hangs"
                )
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _copy(self, item: StateTensor) -> list[tuple[str, _Staged]]:
        if item.tensor.is_floating_point() and item.tensor.dtype != torch.float32:
            raise CheckpointError(
                f"{item.group} {item.name}: {item.tensor.dtype}, but the state is kept in float32; give master weights"
            )
        if item.group != MODEL_GROUP:
            file = f"optimizer/rank{self._rank:05d}.safetensors"
            key = f"{item.group}/{item.name}"
            shape = TensorShape(key, stored_dtype(item.tensor.dtype), tuple(item.tensor.shape))
            return [
                (
                    file,
                    _Staged(
                        item.group,
                        item.name,
                        key,
                        None,
                        shape,
                        self._keep(key, file, None, item.tensor),
                    ),
                )
            ]
        return [
            self._copy_piece(piece, value)
            for piece, value in self._names.to_disk(item.name, item.tensor)
        ]

    def _copy_piece(self, piece: Piece, value: Tensor) -> tuple[str, _Staged]:
        own = f"{MODEL}/model-rank{self._rank:05d}.safetensors"
        file = own if piece.row is None else self._home[piece.name]
        shape = TensorShape(piece.name, piece.disk.dtype, piece.shape)
        memory = self._keep(piece.name, file, piece.row, value)
        return file, _Staged(MODEL_GROUP, piece.name, piece.name, piece.row, shape, memory)

    def _keep(self, key: str, file: str, row: int | None, value: Tensor) -> Tensor:
        """Copy into memory that is reused by the next save."""
        value = value.detach()
        memory = self._memory.get((file, key, row))
        if memory is None or memory.shape != value.shape or memory.dtype != value.dtype:
            memory = torch.empty(value.shape, dtype=value.dtype, device="cpu")
            self._memory[(file, key, row)] = memory
        return memory.copy_(value)

    def _run(self, job: _WriteJob) -> None:
        try:
            part = self._write(job)
            self._on_durable(job.step, job.directory.name, part)
        except (
            BaseException
        ) as error:  # carried to the training thread, which raises it at its next stage or wait
            self._error = error

    def _write(self, job: _WriteJob) -> dict[str, Any]:
        records = {}
        for file, staged in sorted(job.files.items()):
            path = job.directory / file
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                records[file] = self._write_file(path, file, staged).to_dict()
            except OSError as error:
                raise storage_error(path, error) from error
        self._sync_directories(job)
        part: dict[str, Any] = {
            "worker": self._worker, "rank": self._rank, "generation": self._generation, "step": job.step,
            "directory": job.directory.name, "files": records, "state": job.state,
        }  # fmt: skip
        if self._rank == 0:
            part["logical"] = self._names.describe()
            part["model_files"] = dict(self._names.model_files)
            part["keep_float32"] = list(self._names.keep_float32)
        return part

    def _write_file(self, path: Path, file: str, staged: list[_Staged]) -> FileRecord:
        """A file of one's own must be new. A shared file gets one's rows; who holds its first row
        writes the header."""
        layout = self._shared.get(file)
        if layout is None:
            layout, flags, writes_header = plan_layout(s.shape for s in staged), os.O_EXCL, True
        else:
            first = next(iter(layout.tensors))
            flags, writes_header = 0, any(s.name == first and s.row == 0 for s in staged)
        entries = tuple(_entry(layout, s) for s in staged)
        with opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
            if writes_header:
                write_at(fd, layout.header, 0)
            for entry, s in zip(entries, staged, strict=True):
                write_at(fd, s.data, entry.offset)
            sync_file(fd)
            header = (len(layout.header), digest(layout.header)) if writes_header else None
            _read_back(path, fd, entries, header)
        return FileRecord(layout.num_bytes, None, header, entries)

    def _sync_directories(self, job: _WriteJob) -> None:
        folders = {(job.directory / file).parent for file in job.files}
        for folder in sorted(
            folders | {p.parent for p in folders} | {job.directory.parent, self._root}
        ):
            if folder.is_dir():
                sync_directory(folder)


def _entry(layout: FileLayout, staged: _Staged) -> Entry:
    num_bytes = staged.shape.num_bytes
    offset = layout.offsets[staged.key] + (staged.row or 0) * num_bytes
    checksum = digest(staged.data)
    shape = staged.shape
    return Entry(
        staged.group, staged.name, staged.row, offset, num_bytes, shape.dtype, shape.shape, checksum
    )


def _read_back(
    path: Path, fd: int, entries: tuple[Entry, ...], header: tuple[int, str] | None
) -> None:
    if header is not None and digest_range(fd, 0, header[0]) != header[1]:
        raise CheckpointError(
            f"{path}: its header reads back differently from what was written; the storage is bad"
        )
    for entry in entries:
        actual = digest_range(fd, entry.offset, entry.num_bytes)
        if actual != entry.digest:
            raise CheckpointError(
                f"{path}: {entry.label}: reads back as {actual}, written as {entry.digest}; the storage is bad"
            )
