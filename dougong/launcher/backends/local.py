"""Where agents come from. `Local`: subprocesses of this machine. `ray_backend.RayBackend`: actors
of a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.launcher.agent.agent import AgentSettings, count_devices
from dougong.planner.placement import AgentSpec, Node
from dougong.records.directory import RunDir

Settle = Callable[[AgentSpec], AgentSettings]


class Backend(Protocol):
    """Starts agents and knows why one is gone. All its methods are called from one long-lived
    thread, but `close`.

    `shared_devices`: whether agents on one node see each other's devices.
    """

    shared_devices: bool

    def open(self) -> str:
        """Make nodes available; the address of this process as the agents' nodes reach it."""

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        """The nodes there are, with their devices of these accelerators."""

    def start(self, specs: Sequence[AgentSpec], settle: Settle) -> None:
        """Start agents, all of them or none. LaunchError when they find no place."""

    def restart(self, spec: AgentSpec, settle: Settle) -> None:
        """Start one agent again whose first life has ended."""

    def why_ended(self, name: str) -> str | None:
        """Why an agent ended, in words; None when it has not, or nothing is known."""

    def close(self) -> None:
        """End every agent that is left."""


class Local:
    """Agents as subprocesses of this one, on this machine; no Ray."""

    shared_devices = True

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def open(self) -> str:
        return "127.0.0.1"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        counts = {kind: count_devices(get_accelerator(kind)) or 0 for kind in kinds}
        return [Node("local-machine", socket.gethostname(), "127.0.0.1", counts)]

    def start(self, specs: Sequence[AgentSpec], settle: Settle) -> None:
        for spec in specs:
            self.restart(spec, settle)

    def restart(self, spec: AgentSpec, settle: Settle) -> None:
        if spec.name in self._processes:
            self._processes[spec.name].kill()  # lost may mean stopped, not dead
            self._processes[spec.name].wait(5.0)
        log_file = self.log_file(spec.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            self._processes[spec.name] = _spawn(
                dataclasses.replace(settle(spec), parent=os.getpid()), log
            )

    def log_file(self, name: str) -> Path:
        """Where an agent itself prints: next to the logs of its workers."""
        return self._run_dir.log_file(0, f"agent-{name}/0")

    def why_ended(self, name: str) -> str | None:
        try:
            status = self._processes[name].wait(1.0)
        except (KeyError, subprocess.TimeoutExpired):
            return None
        lines = self.log_file(name).read_text(errors="replace").strip().splitlines()
        return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")

    def close(self) -> None:
        for process in self._processes.values():
            try:
                process.wait(3.0)  # its controller is gone: it ends by itself, its workers first
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5.0)


def _spawn(settings: AgentSettings, log: IO[bytes]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong.launcher.agent.agent"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        text=True,
        env=child_environment({}),
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(settings.to_json() + "\n")  # not on the command line: it holds the token
    process.stdin.close()
    return process
