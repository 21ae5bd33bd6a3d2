"""A backend as a test wants it, in a process of its own. What it is to do it is told by the name of a kind or an
agent; what it has done stands in files of the run's directory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from dougong.deadlines import Deadlines
from dougong.errors import CheckpointError, LaunchError, NoRoomError
from dougong.launcher.backends.base import LastingBackend, RayNews, SettingsOf, Tell, TellNews
from dougong.launcher.backends.ray_choice import OWN_RAY, RayChoice
from dougong.launcher.backends.submission import submission
from dougong.planner.nodes import Node
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir
from dougong.records.events import Phase

ENTRY = "tests.launcher.backends.process.fake:make"


class OddError(NoRoomError):
    """A class that the controller's side has never heard of."""


class Fake:
    """One node; agents are names."""

    phase: Phase = "Ray"
    shared_devices = False
    may_grow = False

    def __init__(self, folder: Path, tell: TellNews) -> None:
        self._folder = folder
        self._tell = tell
        self._started: list[str] = []

    def open(self) -> str:
        if (self._folder / "refuses").exists():
            raise LaunchError("it does not open")
        number = len(list(self._folder.glob("opened-*"))) + 1
        (self._folder / f"opened-{number}").write_text(str(os.getpid()))
        return f"10.0.0.{number}"

    def nodes(self, kinds: Sequence[str]) -> list[Node]:
        match kinds[0]:
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leaves":
                os._exit(3)
            case "hangs":
                (self._folder / "hangs").touch()
                time.sleep(600)
            case "waits":
                while (self._folder / "wait").exists():
                    time.sleep(0.01)
            case "outsider":
                raise LaunchError(submission("http://10.0.0.1:8265", None))
            case "loses its head":
                self._tell(RayNews("head", True, "no head"))
            case "no checkpoint":
                raise CheckpointError("of the family")
            case "odd":
                raise OddError("a class of its own", is_held=True)
            case "foreign":
                raise ZeroDivisionError("not of the family")
        return [Node("id", "alpha", "10.0.0.1", {"npu": 2}, free={"npu": 1}, resources=frozenset(kinds))]

    def start(self, specs: Sequence[AgentSpec], settings_of: SettingsOf, tell: Tell) -> None:
        for spec in specs:
            tell(f"room for {spec.name} at {settings_of(spec).controller[1]}")
            self._started.append(spec.name)

    def end(self, names: Sequence[str]) -> None:
        self._started = [name for name in self._started if name not in names]

    def how_ended(self, name: str) -> str:
        return ""

    def ended(self) -> dict[str, str]:
        return {name: f"{name} ended" for name in self._started}

    def hand_over(self) -> None:
        self._started = [f"{name} before" for name in self._started]

    def close(self) -> None:
        (self._folder / "closed").touch()


def make(choice: RayChoice, deadlines: Deadlines, run_dir: RunDir | None, tell: TellNews) -> LastingBackend:
    """The entry."""
    assert run_dir is not None and choice == OWN_RAY
    return Fake(run_dir.path, tell)
