"""An agent from one controller to the next, both played by this test: by a local backend each, and one command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from dougong.control.channel import Channel
from dougong.control.handshake import Hello
from dougong.control.messages import AgentReady, EndAgent
from dougong.control.processes import process_exists
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.local import Local
from dougong.launcher.kept.keeping import Keeping
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir

EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 2)


class Life:
    """One controller's."""

    def __init__(self, folder: Path, keeping: Keeping, token: str, **settings: Any) -> None:
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.server = Server("127.0.0.1", token, lambda h, c: self.peers.put((h, c)), lambda text: None, DEADLINES)
        given: dict[str, Any] = {
            "island": "east",
            "accelerator": "cpu",
            "threads": 1,
            "deterministic": True,
            "controller": self.server.address,
            "token": token,
            "run_dir": str(folder),
            "preload": ("json",),
            "cwd": str(folder),
            "is_followed": True,
        }
        self.backend = Local(RunDir(folder), DEADLINES, keeping)
        self.backend.start([EAST], lambda spec: AgentSettings(spec.name, **(given | settings)), lambda text: None)
        hello, self.channel = self.peers.get(timeout=60)
        assert hello.agent is not None
        self.agent = hello.agent.pid
        message = self.channel.receive(60)
        while not isinstance(message, AgentReady):
            message = self.channel.receive(60)
        self.fork_server = message.fork_server_pid

    def die(self) -> None:
        """All that its death does to its agent."""
        self.channel.close()
        self.server.close()


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    made = Keeping(DEADLINES)
    yield made
    made.close()


def test_it_serves_the_next_controller_with_the_same_fork_server(tmp_path: Path, keeping: Keeping) -> None:
    first = Life(tmp_path, keeping, "secret")
    first.die()
    keeping.collect()
    second = Life(tmp_path, keeping, "another secret")
    assert (second.agent, second.fork_server) == (first.agent, first.fork_server)
    assert second.backend.ended() == {}
    second.channel.send(EndAgent())
    second.backend.close()
    assert not process_exists(second.fork_server)
    assert first.backend.ended()["east"] == "its process ended with status 0"


def test_a_fork_server_that_would_be_another_is_not_used_again(tmp_path: Path, keeping: Keeping) -> None:
    first = Life(tmp_path, keeping, "secret")
    first.die()
    keeping.collect()
    second = Life(tmp_path, keeping, "secret", preload=("json", "csv"))
    assert second.agent == first.agent
    assert second.fork_server != first.fork_server
    assert not process_exists(first.fork_server)
    second.die()


def test_without_another_controller_it_ends(tmp_path: Path) -> None:
    keeping = Keeping(DEADLINES)
    life = Life(tmp_path, keeping, "secret")
    life.die()
    keeping.close()
    assert life.backend.ended()["east"].startswith("its process ended with status 1: ")
    assert not process_exists(life.fork_server)
