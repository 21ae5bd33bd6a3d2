"""The log file of one worker, written beside the agent's loop, which must beat."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import BinaryIO

from dougong.storage.writer import PieceKind, StorageWriter

LINES = PieceKind("lines", most_bytes=8 << 20)
"""What all workers of an agent have printed and storage has not taken yet."""


class WorkerLog:
    """What a worker prints goes into its file, by the agent's one writer. Where that is not
    possible, neither the worker nor its agent waits: lines are kept up to a bound, and the file
    says how many are missing."""

    def __init__(self, path: Path, writer: StorageWriter) -> None:
        self._path, self._writer = path, writer
        self._file: BinaryIO | None = None
        self._num_lost = 0
        # The file is there also for a worker that prints nothing.
        writer.put(LINES, self._ensure_open, count=0)

    def write(self, data: bytes) -> None:
        """Append to the file, after all that came before."""
        num_lines = data.count(b"\n")
        lost = self._num_lost
        whole = b"(%d lines are missing here: storage did not take them)\n" % lost if lost else b""
        unwritten = bytearray(whole + data)
        if self._writer.put(LINES, partial(self._append, unwritten), len(unwritten), num_lines):
            self._num_lost = 0
        else:
            self._num_lost += num_lines

    def close(self) -> None:
        """Write nothing more; what came before is still written, where storage takes it."""
        self._writer.put(LINES, self._close, count=0)

    # In the writer's thread:

    def _append(self, unwritten: bytearray) -> None:
        # A disk that fills up takes a part, and then refuses: only the rest is tried again.
        while unwritten:
            written = self._ensure_open().write(unwritten)
            del unwritten[:written]

    def _ensure_open(self) -> BinaryIO:
        if self._file is None:
            # RUN/logs and below, never RUN: a run directory that is away comes back whole.
            for folder in reversed(self._path.parents[:3]):
                folder.mkdir(exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
