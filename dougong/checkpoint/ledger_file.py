"""The ledger's files: for every step and worker a checksum of each tensor that it owns. Imports no
torch.

RUN/ledger/<generation>/<worker>/names.json     the worker's tensors, in the order of the columns
RUN/ledger/<generation>/<worker>/00000020.bin   records from step 20 on, as `record_type` says

A checksum of 0 in a record means that the tensor had no gradient. Files are small and the oldest
are deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.disk import opened, storage_error, write_at

KINDS = ("gradient", "weight")
NAMES = "names.json"
FILE_BYTES = 2 << 20
LIMIT_BYTES = 64 << 20

Checksums = dict[tuple[str, str], int]
"""(kind, tensor name) -> checksum."""


def record_type(num_tensors: int) -> np.dtype[Any]:
    """One step of one worker, as numpy reads it."""
    return np.dtype([("step", "<i8"), *((kind, "<u8", (num_tensors,)) for kind in KINDS)])


class LedgerWriter:
    """Appends one worker's records. At most `limit_bytes` are kept of a worker, over all
    generations; a file holds `file_bytes` or one record."""

    def __init__(
        self,
        root: Path,
        generation: int,
        worker: str,
        names: Sequence[str],
        limits: tuple[int, int] | None = None,
    ) -> None:
        """`root`: the run's ledger/. `limits`: (bytes of a file, bytes in all)."""
        self._root, self._worker = root, worker
        self._folder = root / str(generation) / worker
        self._record = np.zeros((), record_type(len(names)))
        self._file_bytes, self._limit_bytes = limits or (FILE_BYTES, LIMIT_BYTES)
        self._file: Path | None = None
        self._names = json.dumps(list(names))

    def append(self, step: int, checksums: Sequence[NDArray[np.uint64]]) -> None:
        """Write one step: the checksums of each of `KINDS`, in the order of the names. Raises
        `CheckpointError` when the storage does not take it."""
        self._record["step"] = step
        for kind, values in zip(KINDS, checksums, strict=True):
            self._record[kind] = values
        try:
            self._file = self._file_for(step)
            with opened(self._file, os.O_WRONLY | os.O_CREAT) as fd:
                # Over a record that was not written whole, where storage has refused it before.
                whole = os.fstat(fd).st_size // self._record.nbytes
                write_at(fd, self._record.tobytes(), whole * self._record.nbytes)
        except OSError as error:
            self._file = None  # its folder may be gone, and come back without it
            raise storage_error(self._folder, error, "the ledger") from error

    def _file_for(self, step: int) -> Path:
        """The file that takes one more record: the last one, or a new one of `step`."""
        if self._file is None:
            # Never the run directory: one that is away comes back whole.
            self._root.mkdir(exist_ok=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / NAMES).write_text(self._names)
        elif self._file.stat().st_size + self._record.nbytes <= self._file_bytes:
            return self._file
        self._prune()
        return self._folder / f"{step:08d}.bin"

    def _prune(self) -> None:
        """Make room for one more file: delete this worker's oldest files, over all generations."""
        folders = sorted(self._root.glob(f"*/{self._worker}"), key=self._generation_of)
        files: list[Path] = []
        for folder in folders:
            files += sorted(folder.glob("*.bin"))
        # The new file is counted as if it were full, so that the limit holds when it is.
        kept = self._file_bytes
        for file in reversed(files):
            kept += file.stat().st_size
            if kept > self._limit_bytes:
                file.unlink()
        self._remove_empty(folders)

    def _remove_empty(self, folders: Sequence[Path]) -> None:
        """Folders of generations that have ended and of which no file is left."""
        for folder in folders:
            if folder != self._folder and not any(folder.glob("*.bin")):
                (folder / NAMES).unlink(missing_ok=True)
                folder.rmdir()

    def _generation_of(self, folder: Path) -> int:
        return int(folder.relative_to(self._root).parts[0])


def read_step(root: Path, generation: int, step: int) -> Checksums:
    """Everything that a generation's workers have kept of a step; empty when it is gone."""
    found: Checksums = {}
    for file in sorted((root / str(generation)).rglob(NAMES)):
        names = json.loads(file.read_text())
        for record in _records(file.parent, step, len(names)):
            found |= _checksums(names, record)
    return found


def _checksums(names: Sequence[str], record: Any) -> Checksums:
    """One worker's record as a table, without the tensors that had no gradient."""
    found: Checksums = {}
    for kind in KINDS:
        for name, checksum in zip(names, record[kind], strict=True):
            if checksum:
                found[kind, name] = int(checksum)
    return found


def _records(folder: Path, step: int, num_tensors: int) -> Iterator[Any]:
    """Records of the step: one, or none. What a fault tore at a file's end is left out."""
    files = [file for file in sorted(folder.glob("*.bin")) if int(file.stem) <= step]
    kind = record_type(num_tensors)
    for file in files[-1:]:
        data = file.read_bytes()
        # A worker that died while it wrote leaves a record that is not whole; it is not counted.
        records = np.frombuffer(data, kind, len(data) // kind.itemsize)
        yield from records[records["step"] == step]
