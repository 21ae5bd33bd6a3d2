"""Agents as subprocesses of this one, on this machine; no Ray."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.facts import count_devices, seen_keys
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase
from dougong.records.files import last_line


class Local:
    """The backend of one machine. Agents die with this process."""

    phase: Phase = "agents"
    shared_devices = True
    may_grow = False

    def __init__(self, run_dir: RunDir, deadlines: Deadlines) -> None:
        self._run_dir = run_dir
        self._deadlines = deadlines
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._turn = threading.Lock()  # for whoever changes them
        self._is_closed = False

    def open(self) -> str:
        return "127.0.0.1"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        counts = {kind: count_devices(get_accelerator(kind)) or 0 for kind in kinds}
        keys = {kind: seen_keys(get_accelerator(kind)) for kind in kinds}
        here = Node("local-machine", socket.gethostname(), "127.0.0.1", counts, keys=keys)
        return [dataclasses.replace(here, cpus=float(os.cpu_count() or 1))]

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        self.end([spec.name for spec in specs])
        for spec in specs:
            with self._turn:
                if self._is_closed:
                    raise LaunchError(f"the run ended before agent {spec.name} was started")
                self._start(spec, settings_of)

    def end(self, names: Sequence[str]) -> None:
        for name in names:
            process = self._processes.pop(name, None)
            if process is not None:
                self._kill(process)  # lost may mean stopped, not dead

    def _start(self, spec: AgentSpec, settings_of: SettingsOf) -> None:
        settings = dataclasses.replace(settings_of(spec), parent=os.getpid())
        log_file = self.log_file(spec.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            self._processes[spec.name] = _spawn(settings, log)

    def log_file(self, name: str) -> Path:
        """Where an agent itself prints: next to the logs of its workers."""
        return self._run_dir.agent_log(name)

    def ended(self) -> dict[str, str]:
        ended = {}
        for name, process in self._processes.items():
            status = process.poll()
            if status is not None:
                last_words = self._last_words(name) if status else ""
                ended[name] = f"its process ended with status {status}{last_words}"
        return ended

    def _last_words(self, name: str) -> str:
        last = last_line(self.log_file(name))
        return f": {last} (all of it: {self.log_file(name)})" if last else ""

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            processes = list(self._processes.values())
        deadline = time.monotonic() + self._deadlines.agent_end_s
        for process in processes:
            try:
                # Its controller is gone: it ends by itself, its workers first.
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill(process)

    def _kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait(self._deadlines.kill_s)


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
