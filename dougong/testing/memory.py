"""A control group of memory: what lives in it, and out-of-memory there without harm to others."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dougong.deadlines import DEADLINES
from dougong.testing.process import LabError

_ROOT = Path("/sys/fs/cgroup")
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


class MemoryGroup:
    """A group under the machine's own memory controller (version 1 or 2). A context: its end lets
    its processes go back and removes it. LabError where this machine gives none."""

    def __init__(self) -> None:
        is_one = (_ROOT / "memory").is_dir()
        self._parent = _ROOT / "memory" if is_one else _ROOT
        self._limit = "memory.limit_in_bytes" if is_one else "memory.max"
        self.path = self._parent / f"dougong-lab-{secrets.token_hex(4)}"
        try:
            self.path.mkdir()
        except OSError as error:
            raise LabError(f"no control group of memory can be made: {error}") from error
        if not (self.path / self._limit).exists():
            self.path.rmdir()
            raise LabError(f"{self._parent}: the memory controller is not on")

    def __enter__(self) -> MemoryGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def adopt(self, pids: Iterable[int]) -> None:
        """These processes, and what they start from now on, live in it."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (self.path / "cgroup.procs").write_text(str(pid))

    def exhaust(self, victim: int, megabytes: int = 64) -> None:
        """Let the group run out of memory so that the kernel kills this process of it."""
        Path(f"/proc/{victim}/oom_score_adj").write_text(_FIRST)
        used = self.path / ("memory.usage_in_bytes" if "limit" in self._limit else "memory.current")
        (self.path / self._limit).write_text(str(int(used.read_text()) + megabytes * _MEGA))
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
        (self.path / self._limit).write_text("max" if self._limit == "memory.max" else "-1")

    def close(self) -> None:
        """Nobody lives in it any more, and it is gone."""
        self.relax()
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (self._parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
