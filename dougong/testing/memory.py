"""A control group of memory: what lives in it, and out-of-memory there without harm to others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dougong.deadlines import DEADLINES
from dougong.testing.group import ControlGroup

_MEGA = 1 << 20
_FIRST = "1000"
"""Whom the kernel kills first for memory."""

_PARTS = 4
# Each is in the group before it takes memory, and too small to be killed in the victim's place.
_BALLAST = """
import sys
group, megabytes = sys.argv[1], int(sys.argv[2])
open(group + "/cgroup.procs", "w").write("0")
block = bytearray(megabytes << 20)
for place in range(0, len(block), 4096):
    block[place] = 1
"""


class MemoryGroup(ControlGroup):
    """A context, as `ControlGroup`. LabError where this machine gives none."""

    def __init__(self) -> None:
        super().__init__("memory", ("memory.limit_in_bytes", "memory.max"))

    def exhaust(self, victim: int, megabytes: int = 64) -> None:
        """Let the group run out of memory so that the kernel kills this process of it."""
        Path(f"/proc/{victim}/oom_score_adj").write_text(_FIRST)
        used = self.path / (
            "memory.usage_in_bytes" if "limit" in self.limit_file else "memory.current"
        )
        (self.path / self.limit_file).write_text(str(int(used.read_text()) + megabytes * _MEGA))
        words = [sys.executable, "-c", _BALLAST, str(self.path), str(2 * megabytes // _PARTS)]
        ballast = [subprocess.Popen(words, stdin=subprocess.DEVNULL) for _ in range(_PARTS)]
        for process in ballast:
            try:
                process.wait(DEADLINES.kill_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def relax(self) -> None:
        """No limit any more."""
        (self.path / self.limit_file).write_text("max" if self.limit_file == "memory.max" else "-1")

    def close(self) -> None:
        """Nobody lives in it any more, and it is gone."""
        self.relax()
        super().close()
