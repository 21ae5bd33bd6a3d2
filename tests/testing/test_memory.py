"""Out of memory in a control group: the kernel kills the one that is meant, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from dougong.testing import LabError, MemoryGroup

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_the_kernel_kills_whom_it_should() -> None:
    words = [sys.executable, "-c", "import time; time.sleep(100)"]
    victim, other = subprocess.Popen(words), subprocess.Popen(words)
    try:
        with MemoryGroup() as group:
            group.adopt([victim.pid, other.pid])
            group.exhaust(victim.pid, megabytes=32)
            assert victim.wait(60) == -signal.SIGKILL
            assert other.poll() is None
        assert not group.path.exists()
    except LabError as error:
        pytest.fail(f"this machine has no control groups of memory: {error}")
    finally:
        for process in (victim, other):
            process.kill()
            process.wait()
