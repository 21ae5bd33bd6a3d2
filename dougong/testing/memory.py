"""A control group of memory: what lives in it, and out-of-memory there without harm to others."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil

from dougong.deadlines import DEADLINES
from dougong.testing.group import ControlGroup
from dougong.testing.process import LabError

_MEGA = 1 << 20
_FIRST = "1000"
"""Whom the kernel kills first for memory."""

_PARTS = 4
"""How many of them fill what the group has left."""
# Each is in the group before it takes memory, too small to be killed in the victim's place, and
# killed before anybody else of the group. It keeps what it has taken until it is ended. The kernel
# adds a thousandth of the group's limit for each point (300 here, the victim's 1000) to what a
# process has, its libraries too, so one may not have more than half of the limit.
_BALLAST = """
import sys
group, megabytes = sys.argv[1], int(sys.argv[2])
open(group + "/cgroup.procs", "w").write("0")
open("/proc/self/oom_score_adj", "w").write("300")
block = bytearray(megabytes << 20)
for place in range(0, len(block), 4096):
    block[place] = 1
sys.stdin.read()
"""


class MemoryGroup(ControlGroup):
    """A context, as `ControlGroup`. LabError where this machine gives none."""

    def __init__(self) -> None:
        super().__init__("memory", ("memory.limit_in_bytes", "memory.max"))

    def exhaust(self, victim: int, megabytes: int = 64) -> None:
        """Let the group run out of memory so that the kernel kills this process of it. LabError
        where it has not within `DEADLINES.lab_host_s`.

        What the group has of files the kernel gives up before it kills anybody, so that is taken
        from it, too: of a machine that was just started, all libraries.
        """
        Path(f"/proc/{victim}/oom_score_adj").write_text(_FIRST)
        used = self.path / (
            "memory.usage_in_bytes" if "limit" in self.limit_file else "memory.current"
        )
        (self.path / self.limit_file).write_text(str(int(used.read_text()) + megabytes * _MEGA))
        part = megabytes // _PARTS
        num_parts = math.ceil((2 * megabytes + self._megabytes_of_files()) / part)
        words = [sys.executable, "-c", _BALLAST, str(self.path), str(part)]
        ballast = [subprocess.Popen(words, stdin=subprocess.PIPE) for _ in range(num_parts)]
        until = time.monotonic() + DEADLINES.lab_host_s
        try:
            while _lives(victim):
                if time.monotonic() > until:
                    text = f"the kernel has not killed process {victim} for memory within"
                    raise LabError(f"{text} {DEADLINES.lab_host_s:g} s")
                time.sleep(DEADLINES.exit_look_s)
        finally:
            for process in ballast:
                process.kill()
                process.communicate()

    def _megabytes_of_files(self) -> int:
        """What is kept of files in the memory of all who live in it."""
        lines = (self.path / "memory.stat").read_text().splitlines()
        pairs = dict(line.split() for line in lines)
        own = [name for name in ("active_file", "inactive_file") if name in pairs]
        return math.ceil(sum(int(pairs[name]) for name in own) / _MEGA)

    def relax(self) -> None:
        """No limit any more."""
        (self.path / self.limit_file).write_text("max" if self.limit_file == "memory.max" else "-1")

    def close(self) -> None:
        """Nobody lives in it any more, and it is gone."""
        self.relax()
        super().close()


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
