"""When a writer's trouble is news."""

from __future__ import annotations

import time

from dougong.storage.trouble import Healed, News, Trouble
from dougong.storage.writer import StorageWriter


class TroubleWatch:
    """Looks at one writer, as often as it is asked to, and says what is new."""

    def __init__(self, writer: StorageWriter) -> None:
        self._writer = writer
        self._open: Trouble | None = None

    def look(self) -> News | None:
        """What there is to tell: that trouble has begun, or has another reason, or is over."""
        trouble, before = self._writer.trouble(), self._open
        self._open = trouble
        if trouble is not None:
            is_news = before is None or before.reason != trouble.reason
            return trouble if is_news else None
        dropped = self._writer.take_dropped()
        if before is not None:
            return Healed(before.what, time.monotonic() - before.since, dropped)
        return Healed(self._writer.what, 0.0, dropped) if dropped else None

    def tell_again(self) -> None:
        """Trouble that lasts is news once more, to whoever has forgotten it."""
        self._open = None
