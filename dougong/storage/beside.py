"""Work beside training that must not hold it up."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

NICENESS = 10
"""A tenth of a processor's time where training wants it, all of it where nobody else does. Not the
lowest: who holds the interpreter's lock and never gets a turn holds up those who wait for it."""


def start_beside(work: Callable[[], None], name: str) -> threading.Thread:
    """Begin this in a thread that gives way to others, as far as the system can. It ends with the
    process."""

    def run() -> None:
        _give_way()
        work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _give_way() -> None:
    # Linux keeps a priority for each thread, other systems for whole processes.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
