"""What is printed, where the other end may stand still: a file on storage that hangs, a pipe whose
reader sleeps, a terminal that somebody has stopped by Ctrl-S."""

from __future__ import annotations

import io
from functools import partial
from typing import TextIO

from dougong.deadlines import DEADLINES, Deadlines
from dougong.storage.writer import PieceKind, StorageWriter

_TEXT = PieceKind("lines on the screen", most_bytes=4 << 20)


class Screen(io.TextIOBase):
    """A text stream whose `write` never waits: a thread of its own does. Beyond a bound text is
    dropped. BrokenPipeError once nobody reads any more."""

    def __init__(self, stream: TextIO, deadlines: Deadlines = DEADLINES) -> None:
        self._stream = stream
        self._end_s = deadlines.logs_end_s
        self._writer = StorageWriter("the screen", deadlines)
        self._error: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Have it printed after what came before."""
        if self._error is not None:
            raise self._error
        self._writer.put(_TEXT, partial(self._print, text), len(text), text.count("\n"))
        return len(text)

    def flush(self) -> None:
        """Nothing: what is written is on its way."""

    def settle(self, timeout_s: float) -> None:
        """Wait until all is printed, for so long at most."""
        self._writer.settle(timeout_s)

    def close(self) -> None:
        """Wait for a moment until all is printed; the stream itself stays open."""
        if not self.closed:
            self._writer.settle(self._end_s)
            self._writer.close()
        super().close()

    def _print(self, text: str) -> None:
        """In the writer's thread. What a full disk refuses is not tried again, since a part of it
        may stand there; and nobody is told of a screen that is gone."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError as error:
            self._error = error
        except OSError:
            return
