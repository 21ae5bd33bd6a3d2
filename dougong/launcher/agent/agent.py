"""An agent: one per island and node. Forks the island's workers there, sees them end, carries
beats, messages and logs.

The same class runs inside a Ray actor and as `python -m dougong.launcher.agent.agent` (its settings
on standard input). All happens in one thread, in `run`, which returns when the controller says so
or is gone; no worker outlives it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dougong.accelerators.base import Accelerator
from dougong.accelerators.registry import get_accelerator
from dougong.control.channel import Channel, Message, ProtocolError, connect
from dougong.control.environment import interface_variables, read_visible_devices
from dougong.control.processes import count_oom_kills, die_with_parent, interface_of
from dougong.errors import DougongError, LaunchError
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.fork_client import ForkServer
from dougong.records.directory import RunDir

BEAT_S = 0.1
CONTROLLER_SILENCE_S = 20.0
MAX_LINES_PER_BEAT = 50
PACKAGES = ("dougong", "torch", "transformers", "ray")


@dataclass(frozen=True)
class AgentSettings:
    """What an agent must know to find its controller and to start its workers.

    `preload`: modules that the fork server imports. `cwd`: the driver's directory, taken if it
    exists here. `parent`: the process whose death ends ours (None inside a Ray actor, which has its
    own rules).
    """

    name: str
    island: str
    accelerator: str
    threads: int
    deterministic: bool
    controller: tuple[str, int]
    token: str
    run_dir: str
    preload: tuple[str, ...]
    cwd: str
    parent: int | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> AgentSettings:
        raw = json.loads(text)
        return AgentSettings(
            **{**raw, "controller": tuple(raw["controller"]), "preload": tuple(raw["preload"])}
        )


class Agent:
    """Serves one controller for one run. `about`: what else its hello should say of its place.

    `dismissed`: whether the controller ended it, rather than being gone.
    """

    def __init__(self, settings: AgentSettings, about: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self._about = dict(about or {})
        self._run_dir = RunDir(settings.run_dir)
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}  # by the id of their fork request
        self._next_id = 0
        self._beats = 0
        self._oom_kills = count_oom_kills()
        self._heard = time.monotonic()
        self._over = False
        self.dismissed = False
        self._generation = 0

    def run(self) -> None:
        """Serve until the controller ends us or is gone. Everything that was started is ended on
        every way out."""
        self._controller = connect(self.settings.controller, self.settings.token, self._hello())
        self._address = self._controller.local_address
        try:
            accelerator = get_accelerator(self.settings.accelerator)
            variables = accelerator.worker_environment(
                self.settings.threads, self.settings.deterministic
            )
            variables |= interface_variables(interface_of(self._address))
            self._zygote = ForkServer(variables, self.settings.preload, self._cwd())
        except DougongError as error:
            self._controller.send("failed", text=str(error))
            raise
        try:
            self._serve()
        finally:
            self._zygote.destroy()
            for child in self._children.values():
                child.read_output(1024)
                child.close()

    def _hello(self) -> Message:
        accelerator = get_accelerator(self.settings.accelerator)
        return {
            **self._about,
            "role": "agent",
            "agent": self.settings.name,
            "island": self.settings.island,
            "node": socket.gethostname(),
            "pid": os.getpid(),
            "versions": installed_versions(),
            "accelerator": self.settings.accelerator,
            "devices": count_devices(accelerator),
            "environment": accelerator.worker_environment(
                self.settings.threads, self.settings.deterministic
            ),
            "sees_run_dir": self._run_dir.job_file.exists(),
        }

    def _cwd(self) -> Path | None:
        cwd = Path(self.settings.cwd)
        return cwd if cwd.is_dir() else None

    def _serve(self) -> None:
        self._selector.register(self._controller, selectors.EVENT_READ, self._on_controller)
        self._selector.register(self._zygote.channel, selectors.EVENT_READ, self._on_zygote)
        next_beat = time.monotonic() + BEAT_S
        try:
            while not self._over:
                for key, _ in self._selector.select(max(0.0, next_beat - time.monotonic())):
                    key.data()
                now = time.monotonic()
                if now >= next_beat:
                    self._beat()
                    next_beat = max(next_beat + BEAT_S, now)
                if now - self._heard > CONTROLLER_SILENCE_S:
                    raise LaunchError(f"no word from the controller for {CONTROLLER_SILENCE_S} s")
        except (OSError, EOFError, ProtocolError) as error:
            print(
                f"agent {self.settings.name}: the controller is gone ({error}); ending its workers",
                file=sys.stderr,
            )

    def _tell(self, kind: str, generation: int, **fields: Any) -> None:
        self._controller.send(kind, generation, **fields)

    def _beat(self) -> None:
        self._beats += 1
        vectors = {}
        for child in self._of(self._generation):
            progress = child.vector.read()
            vectors[child.worker] = [
                progress.sequence,
                progress.step,
                progress.phase,
                progress.operation,
            ]
        self._tell("beat", self._generation, sequence=self._beats, progress=vectors)

    # What the controller says

    def _on_controller(self) -> None:
        for message in self._controller.drain():
            self._heard = time.monotonic()
            self._obey(message)

    def _obey(self, message: Message) -> None:
        kind, generation = message["kind"], message["generation"]
        if kind == "fork":
            self._generation = generation
            for worker in message["workers"]:
                self._fork(worker, generation, message["request"])
        elif kind == "kill":
            self._kill(generation)
        elif kind == "stop":
            for child in self._of(generation):
                child.vector.request_stop()
        elif kind == "exit":
            self._over = self.dismissed = True

    def _of(self, generation: int) -> list[Child]:
        return [child for child in self._children.values() if child.generation == generation]

    def _fork(self, worker: str, generation: int, request: Message) -> None:
        try:
            child = Child.open(
                worker, generation, request, self._run_dir.log_file(generation, worker)
            )
        except OSError as error:
            text = f"cannot prepare a worker: {error}"
            self._tell("exit", generation, worker=worker, task=request["task"], code=1, text=text)
            return
        self._next_id += 1
        self._children[self._next_id] = child
        self._selector.register(
            child.channel, selectors.EVENT_READ, lambda: self._on_message(child)
        )
        self._selector.register(child.output, selectors.EVENT_READ, lambda: self._on_output(child))
        whole = {
            **request,
            "id": self._next_id,
            "worker": worker,
            "generation": generation,
            "address": self._address,
        }
        self._zygote.fork(whole, child.theirs)
        child.forget_theirs()

    def _kill(self, generation: int) -> None:
        for child in self._of(generation):
            child.doomed = True
            if child.pid is not None:
                self._zygote.kill(child.pid)

    # What the zygote says

    def _on_zygote(self) -> None:
        try:
            messages = self._zygote.channel.drain()
        except (OSError, EOFError):
            self._tell("failed", self._generation, text=self._zygote.exit_text())
            self._over = True
            return
        for message in messages:
            if message["kind"] == "forked":
                self._on_forked(message["id"], message["pid"])
            elif message["kind"] == "unforked":
                self._on_unforked(message["id"], message["text"])
            elif message["kind"] == "exit":
                self._on_exit(message["pid"], message["code"])
            elif message["kind"] == "ready":
                self._tell("ready", 0, zygote=self._zygote.pid)
            elif message["kind"] == "broken":
                self._tell(
                    "failed", 0, text=f"cannot import what the workers need:\n{message['text']}"
                )
                self._over = True

    def _on_forked(self, number: int, pid: int) -> None:
        child = self._children[number]
        child.pid = pid
        self._tell("forked", child.generation, worker=child.worker, pid=pid)
        if child.doomed:
            self._zygote.kill(pid)

    def _on_unforked(self, number: int, text: str) -> None:
        child = self._children[number]
        self._tell(
            "exit",
            child.generation,
            worker=child.worker,
            task=child.task,
            pid=None,
            code=1,
            text=text,
        )
        self._forget(number, child)

    def _on_exit(self, pid: int, code: int) -> None:
        number, child = next((n, c) for n, c in self._children.items() if c.pid == pid)
        self._on_message(child)
        self._on_output(child)
        facts = {
            "code": code,
            "asked": child.doomed,
            "oom": self._oom_killed(),
            "last_lines": list(child.last_lines),
        }
        self._tell("exit", child.generation, worker=child.worker, task=child.task, pid=pid, **facts)
        self._forget(number, child)

    def _forget(self, number: int, child: Child) -> None:
        for stream in (child.channel, child.output):
            self._silence(stream)
        child.close()
        del self._children[number]

    def _oom_killed(self) -> bool:
        """Whether the kernel killed something of our control group for memory since we last
        looked."""
        before, self._oom_kills = self._oom_kills, count_oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    # What the workers say

    def _on_message(self, child: Child) -> None:
        if child.closed:  # it ended earlier in this same round
            return
        try:
            for message in child.channel.drain():
                self._tell(
                    "message",
                    child.generation,
                    worker=child.worker,
                    task=child.task,
                    message=message,
                )
        except ProtocolError as error:
            self._silence(child.channel)
            self._tell(
                "line",
                child.generation,
                worker=child.worker,
                text=f"warning: garbled message: {error}",
            )
        except EOFError:
            self._silence(child.channel)

    def _on_output(self, child: Child) -> None:
        if child.closed:
            return
        lines, still_open = child.read_output()
        for line in lines[:MAX_LINES_PER_BEAT]:
            self._tell("line", child.generation, worker=child.worker, text=line)
        if len(lines) > MAX_LINES_PER_BEAT:
            more = f"({len(lines) - MAX_LINES_PER_BEAT} more lines in its log)"
            self._tell("line", child.generation, worker=child.worker, text=more)
        if not still_open:
            self._silence(child.output)

    def _silence(self, stream: Channel | int) -> None:
        with contextlib.suppress(KeyError):  # it had ended before
            self._selector.unregister(stream)


def count_devices(accelerator: Accelerator) -> int | None:
    """How many devices this process may use; None: any number of workers."""
    variable = accelerator.visible_devices_variable
    return accelerator.device_count(read_visible_devices(variable) if variable else None)


def installed_versions() -> dict[str, str]:
    """Versions that must agree over the nodes of a run, read from package metadata (nothing is
    imported)."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def main() -> None:
    """`python -m dougong.launcher.agent.agent`, settings as JSON on standard input."""
    settings = AgentSettings.from_json(sys.stdin.readline())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, also about Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if settings.parent is not None:
        die_with_parent(settings.parent)
    try:
        Agent(settings).run()
    except DougongError as error:
        sys.exit(f"agent {settings.name}: {error}")


if __name__ == "__main__":
    main()
