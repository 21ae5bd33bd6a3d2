"""A worker's ledger file, written beside training: storage that refuses costs records, no step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dougong.deadlines import DEADLINES, Deadlines
from dougong.storage.trouble import News
from dougong.storage.watch import TroubleWatch
from dougong.storage.writer import PieceKind, StorageWriter

_RECORDS = PieceKind("steps of the ledger", most_bytes=16 << 20)

Tell = Callable[[News], None]


class RecordWriter(Protocol):
    """Whoever writes a step's records, and raises where storage refuses."""

    def append(self, step: int, checksums: Sequence[NDArray[np.uint64]]) -> None: ...


def tell_nobody(news: News) -> None:
    """For tools, where nobody watches."""


class StoredLedger:
    """Appends records by a thread of its own. What storage does not take is kept up to a bound,
    then dropped; a digest of the ledger needs none of it."""

    def __init__(
        self, writer: RecordWriter, tell: Tell = tell_nobody, deadlines: Deadlines = DEADLINES
    ) -> None:
        """`tell`: is called by whoever appends, when there is news of the storage."""
        self._writer, self._tell = writer, tell
        self._end_s = deadlines.logs_end_s
        self._storage = StorageWriter("the ledger's files", deadlines)
        self._watch = TroubleWatch(self._storage)

    def append(self, step: int, checksums: Sequence[NDArray[np.uint64]]) -> None:
        """Have one step written; the arrays may be changed after this."""
        copies = [values.copy() for values in checksums]
        num_bytes = sum(values.nbytes for values in copies)
        self._storage.put(_RECORDS, partial(self._writer.append, step, copies), num_bytes)
        self._look()

    def finish(self) -> None:
        """Wait for a moment until all is written, and write nothing more."""
        self._storage.settle(self._end_s)
        self._look()
        self.close()

    def close(self) -> None:
        """Let the thread end. Any thread may call this."""
        self._storage.close()

    def _look(self) -> None:
        news = self._watch.look()
        if news is not None:
            self._tell(news)
