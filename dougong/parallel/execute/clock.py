"""How long a worker waits for messages, and where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds that this worker spent waiting for messages, and a note of where it is."""

    note: Callable[[str, int], None] = lambda phase, operation: None
    exchange_s: float = 0.0

    def restart(self) -> None:
        """A step begins: nothing has been waited for."""
        self.exchange_s = 0.0

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.exchange_s += time.perf_counter() - begun
