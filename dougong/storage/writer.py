"""Writing in a thread of its own, since storage may refuse, or not answer for minutes.

Whoever computes, or says that it lives, hands its pieces over and goes on. What storage refuses is
tried again until it is taken; meanwhile pieces are kept in memory, all of them or up to a bound.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import DougongError
from dougong.storage.trouble import NO_ANSWER, Counts, Trouble


@dataclass(frozen=True)
class PieceKind:
    """Pieces of one kind, which are written in their order. `most_bytes`: so much of them is kept
    in memory, then more are dropped and counted; None: all are kept. `newest_only`: a piece takes
    the place of the one before it, where that is not written yet."""

    name: str
    most_bytes: int | None = None
    newest_only: bool = False


@dataclass(frozen=True)
class _WaitingPiece:
    number: int
    write: Callable[[], object]
    num_bytes: int
    count: int


@dataclass
class _WaitingLine:
    """The pieces of one kind that wait. `refused_since`: monotonic seconds, None while storage
    takes them."""

    kind: PieceKind
    pieces: deque[_WaitingPiece] = field(default_factory=deque)
    num_bytes: int = 0
    num_dropped: int = 0
    refused_since: float | None = None
    reason: str = ""
    again_at: float = 0.0


class StorageWriter:
    """One writer with one thread, for pieces of several kinds. `put` never waits; any thread may
    call any method.

    Kinds are written in the order in which their pieces came, but that one which is refused does
    not hold up the others. A piece is a call that raises OSError, or an error of ours, where it is
    refused; it may be called again after that.
    """

    def __init__(self, what: str, deadlines: Deadlines = DEADLINES) -> None:
        """`what`: what it writes, in words."""
        self.what = what
        self._deadlines = deadlines
        self._lines: dict[str, _WaitingLine] = {}
        self._changed = threading.Condition()
        self._num_pieces = 0
        self._at: tuple[_WaitingLine, float] | None = None  # what is being written, and since when
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def put(
        self, kind: PieceKind, write: Callable[[], object], num_bytes: int = 0, count: int = 1
    ) -> bool:
        """Write this piece after those before it; False: there was no room to keep it. `count`:
        how many it is told as, such as the lines in it."""
        with self._changed:
            line = self._lines.setdefault(kind.name, _WaitingLine(kind))
            if kind.newest_only:
                line.pieces.clear()
                line.num_bytes = 0
            if not self._has_room(line, num_bytes):
                line.num_dropped += count
                return False
            self._num_pieces += 1
            line.pieces.append(_WaitingPiece(self._num_pieces, write, num_bytes, count))
            line.num_bytes += num_bytes
            if self._thread is None:  # many writers are never used
                self._thread = threading.Thread(
                    target=self._serve, name=f"dougong-write {self.what}", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            return True

    def trouble(self) -> Trouble | None:
        """Why pieces are not written now; None where storage takes them, or takes no longer than
        `storage_told_s` over one."""
        now = time.monotonic()
        with self._changed:
            reasons: dict[str, float] = {}
            for line in self._lines.values():
                if line.refused_since is not None:
                    reasons.setdefault(line.reason, line.refused_since)
            if self._at is not None and now - self._at[1] > self._deadlines.storage_told_s:
                reasons[NO_ANSWER] = self._at[1]
            if not reasons:
                return None
            since, reason = min(reasons.values()), next(iter(reasons))
            return Trouble(self.what, reason, since, self._kept(), self._dropped())

    def take_dropped(self) -> Counts:
        """What was dropped since the last call."""
        with self._changed:
            dropped = self._dropped()
            for line in self._lines.values():
                line.num_dropped = 0
            return dropped

    def settle(self, timeout_s: float) -> Trouble | None:
        """Wait until all is written that has been put; after the limit, what is not."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._is_busy() and (left_s := deadline - time.monotonic()) > 0:
                self._changed.wait(left_s)
            if not self._is_busy():
                return None
        return self.trouble() or self._unfinished()

    def close(self) -> None:
        """Take nothing more, write once what waits, and end. A thread that is stuck in a call of
        the storage is left to itself."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    # All below: the lock is held, but while a piece is written.

    def _unfinished(self) -> Trouble:
        with self._changed:
            limit = "storage is too slow"
            return Trouble(self.what, limit, time.monotonic(), self._kept(), self._dropped())

    def _has_room(self, line: _WaitingLine, num_bytes: int) -> bool:
        most = line.kind.most_bytes
        return most is None or not num_bytes or line.num_bytes + num_bytes <= most

    def _is_busy(self) -> bool:
        return self._at is not None or any(line.pieces for line in self._lines.values())

    def _kept(self) -> Counts:
        counts = []
        for name, line in self._lines.items():
            count = sum(piece.count for piece in line.pieces)
            if count:
                counts.append((name, count))
        return tuple(counts)

    def _dropped(self) -> Counts:
        lines = self._lines.values()
        return tuple((line.kind.name, line.num_dropped) for line in lines if line.num_dropped)

    def _serve(self) -> None:
        while (line := self._await_line()) is not None:
            with self._changed:
                if not line.pieces:
                    continue  # a newer one is on its way
                piece = line.pieces[0]
                self._at = line, time.monotonic()
            reason = _refusal(piece)
            with self._changed:
                self._at = None
                self._note(line, piece, reason)
                self._changed.notify_all()

    def _note(self, line: _WaitingLine, piece: _WaitingPiece, reason: str) -> None:
        if reason:
            now = time.monotonic()
            line.refused_since = now if line.refused_since is None else line.refused_since
            line.reason, line.again_at = reason, now + self._deadlines.storage_retry_s
            return
        line.refused_since = None
        # It may have made room for a newer one while it was written.
        if line.pieces and line.pieces[0] is piece:
            line.pieces.popleft()
            line.num_bytes -= piece.num_bytes

    def _await_line(self) -> _WaitingLine | None:
        """The line whose turn it is; None when all is over."""
        with self._changed:
            while True:
                now = time.monotonic()
                waiting = [line for line in self._lines.values() if line.pieces]
                due = [line for line in waiting if _is_due(line, now)]
                if due:
                    return min(due, key=lambda line: line.pieces[0].number)
                if self._is_closed:
                    return None
                rest_s = min((line.again_at - now for line in waiting), default=None)
                self._changed.wait(rest_s)


def _is_due(line: _WaitingLine, now: float) -> bool:
    return line.refused_since is None or now >= line.again_at


def _refusal(piece: _WaitingPiece) -> str:
    """Why it is not written; empty when it is."""
    try:
        piece.write()
    except OSError as error:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or error}"
    except DougongError as error:
        return str(error)
    return ""
