"""A clock that jumps for those who were started by it, and for nobody else."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from dougong.control.environment import child_environment
from dougong.testing import LabClock


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = LabClock(tmp_path)
    code = "import time\nwhile True: input(); print(time.time(), time.monotonic(), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", code], env=child_environment(clock.env), text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for seconds in (0, 3600, -3600, 0):
        clock.jump(seconds)
        process.stdin.write("\n")
        process.stdin.flush()
        wall, monotonic = map(float, process.stdout.readline().split())
        assert abs(wall - time.time() - seconds) < 60
        assert abs(monotonic - time.monotonic()) < 60
    process.kill()
    process.communicate()
