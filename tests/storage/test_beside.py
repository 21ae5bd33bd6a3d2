"""Work beside training gives way to it."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from dougong.storage.beside import NICENESS, start_beside


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep one priority for a process")
def test_the_thread_gives_way_and_its_process_does_not() -> None:
    seen = []
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work() -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    start_beside(work, "beside").join(10)
    assert seen == [max(NICENESS, before)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
