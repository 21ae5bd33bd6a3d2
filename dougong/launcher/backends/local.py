"""Agents as subprocesses of this one, on this machine; no Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from dougong.accelerators.registry import get_accelerator
from dougong.control.environment import child_environment
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.agent.facts import count_devices, seen_keys
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.base import SettingsOf, Tell
from dougong.launcher.kept.keeping import Keeping, KeptProcess
from dougong.launcher.kept.line import give_settings
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase
from dougong.records.files import last_line


def node_here(kinds: Iterable[str]) -> Node:
    """This machine, with its devices of these accelerators, as the planner takes it."""
    wanted = tuple(kinds)
    counts = {kind: count_devices(get_accelerator(kind)) or 0 for kind in wanted}
    keys = {kind: seen_keys(get_accelerator(kind)) for kind in wanted}
    here = Node("local-machine", socket.gethostname(), "127.0.0.1", counts, keys=keys)
    return dataclasses.replace(here, cpus=float(os.cpu_count() or 1))


class Local:
    """The backend of one machine. Agents die with this process, or go over to the one that
    follows."""

    phase: Phase = "agents"
    shared_devices = True
    may_grow = False

    def __init__(
        self, run_dir: RunDir, deadlines: Deadlines, keeping: Keeping | None = None
    ) -> None:
        """`keeping`: with the command beside this process, where another one would follow it."""
        self._run_dir = run_dir
        self._deadlines = deadlines
        self._keeping = keeping
        self._processes: dict[str, KeptProcess] = {}
        self._turn = threading.Lock()  # for whoever changes them
        self._is_closed = False

    def open(self) -> str:
        return "127.0.0.1"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        return [node_here(kinds)]

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
                process.kill(self._deadlines)  # lost may mean stopped, not dead
                process.close()

    def _start(self, spec: AgentSpec, settings_of: SettingsOf) -> None:
        parent = os.getpid() if self._keeping is None else None
        settings = dataclasses.replace(settings_of(spec), parent=parent)
        agent = self._taken_over(settings) or self._new(settings)
        self._processes[spec.name] = agent
        if self._keeping is not None:
            self._keeping.keep(agent)

    def _taken_over(self, settings: AgentSettings) -> KeptProcess | None:
        """The agent of the controller before, if it lives and takes these settings."""
        agent = None if self._keeping is None else self._keeping.take(settings.name)
        if agent is None:
            return None
        try:
            give_settings(agent.line, settings)
        except OSError:
            agent.kill(self._deadlines)
            agent.close()
            return None
        return agent

    def _new(self, settings: AgentSettings) -> KeptProcess:
        log_file = self.log_file(settings.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            agent = _spawn(settings.name, log)
        with contextlib.suppress(OSError):  # one that has ended already says so
            give_settings(agent.line, settings)
        return agent

    def log_file(self, name: str) -> Path:
        """Where an agent itself prints: next to the logs of its workers."""
        return self._run_dir.agent_log(name)

    def ended(self) -> dict[str, str]:
        ended = {}
        for name, process in self._processes.items():
            words = process.exit_words()
            if words is not None:
                last_words = "" if process.status == 0 else self._last_words(name)
                ended[name] = f"{words}{last_words}"
        return ended

    def how_ended(self, name: str) -> str:
        process = self._processes.get(name)
        if process is None:
            return ""
        try:
            has_ended = process.wait(self._deadlines.exit_look_s)
            return (process.exit_words() or "") if has_ended else ""
        except (OSError, ValueError):  # it is being let go of meanwhile, in another thread
            return ""

    def _last_words(self, name: str) -> str:
        last = last_line(self.log_file(name))
        return f": {last} (all of it: {self.log_file(name)})" if last else ""

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            processes = list(self._processes.values())
        if self._keeping is not None:
            self._keeping.end_rest()
        for process in processes:
            process.hang_up()
        deadline = time.monotonic() + self._deadlines.agent_end_s
        for process in processes:
            # Its controller is gone: it ends by itself, its workers first.
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.kill(self._deadlines)


def _spawn(name: str, log: IO[bytes]) -> KeptProcess:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "dougong.launcher.kept.serve"],
            stdin=theirs.fileno(),
            stdout=log,
            stderr=log,
            env=child_environment({}),
            start_new_session=True,
        )
    return KeptProcess.of(name, process, ours)
