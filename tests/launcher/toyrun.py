"""Starting toy runs as real processes, and finding every process that belongs to one."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dougong.records.directory import RunDir
from dougong.records.events import to_json

ROOT = Path(__file__).resolve().parents[2]
MARK = "DOUGONG_TEST_MARK"
DEADLINE_S = 90.0


def toy_job(**changes: Any) -> dict[str, Any]:
    """A job of 20 short steps on two workers. `faults`, `step_s`, `kernels`, `memory`, `meet` reach the toy entries;
    others replace."""
    config = {key: changes.pop(key) for key in ("faults", "step_s", "kernels", "memory", "meet") if key in changes}
    return {
        "job": "toy",
        "model": {"family": "toy", "config": config},
        "data": {"text": "stdlib"},
        "batch": {"lanes": 4},
        "steps": 20,
        "islands": [{"name": "east", "accelerator": "cpu", "workers": 2}],
        "checkpoint": {"every": 5, "keep": 2},
        **changes,
    }


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The condition's value once it is true; fails at the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@dataclass
class ToyRun:
    """One run of `tests.launcher.drive` in a process of its own; everything it starts carries a mark."""

    path: Path
    job: dict[str, Any]
    flags: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    stdin: int | None = None

    def start(self, command: str = "run", *more: str) -> ToyRun:
        file = self.path.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(self.job))
        words = [sys.executable, "-m", "tests.launcher.drive", command, str(self.path), "--job", str(file)]
        environment = {**os.environ, **self.environment, MARK: self.mark, "OMP_NUM_THREADS": "1"}
        self.output = self.path.with_suffix(".out")
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [*words, *self.flags, *more],
                cwd=ROOT,
                env=environment,
                stdin=self.stdin,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self

    def finish(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit status. No process of the run is left."""
        status = self.process.wait(timeout_s)
        wait_for(lambda: not self.processes(), f"the run's processes end: {self.processes()}", 8)
        return status

    def text(self) -> str:
        return self.output.read_text()

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.path)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [to_json(e) for e in self.run_dir.read_events() if e.kind == kind]

    def await_step(self, step: int) -> None:
        wait_for(lambda: any(row["step"] >= step for row in self.run_dir.read_metrics()), f"step {step}: {self.text()}")

    def processes(self) -> dict[int, str]:
        """Living processes of this run, by number, with their command.

        They carry its mark or are of its session: Ray's helpers write their title over the mark, and others start
        sessions of their own.
        """
        mark, found = f"{MARK}={self.mark}".encode(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                ours = int(session) == self.process.pid and state not in ("Z", "X")
                if ours or mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
            except OSError:
                continue  # it has just ended, or is a zombie
        return found

    def worker_pids(self) -> dict[str, int]:
        status = self.run_dir.read_status()
        workers = status.workers if status is not None else ()
        return {w.name: w.pid for w in workers if w.alive and w.pid is not None}
