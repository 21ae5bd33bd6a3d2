"""Agents as processes of this machine, against a controller that this test plays."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from dougong.control.channel import Channel
from dougong.control.handshake import Hello
from dougong.control.messages import EndAgent
from dougong.control.processes import process_exists
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.local import Local
from dougong.planner.placement import AgentSpec
from dougong.records.directory import RunDir

EAST = AgentSpec("east", "east", "both", "cpu", 1, 0, 2)
SHORT = dataclasses.replace(DEADLINES, agent_end_s=0.2)


def silence(text: str) -> None:
    raise AssertionError(f"nothing is awaited here: {text}")


class Launch:
    """A local backend, and the agents that have reached the controller."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.backend = Local(self.run_dir, SHORT)
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), lambda text: None, DEADLINES)

    def settings_of(self, spec: AgentSpec) -> AgentSettings:
        return AgentSettings(
            name=spec.name,
            island=spec.island,
            accelerator=spec.accelerator,
            threads=1,
            deterministic=True,
            controller=self.server.address,
            token="secret",
            run_dir=str(self.run_dir.path),
            preload=("json",),
            cwd=str(self.run_dir.path),
        )

    def joined(self) -> tuple[int, Channel]:
        """The next agent's process number, and the line to it."""
        hello, channel = self.peers.get(timeout=60)
        assert hello.agent is not None
        assert hello.agent.agent == "east"
        return hello.agent.pid, channel


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    made = Launch(tmp_path)
    yield made
    made.backend.close()
    made.server.close()


def test_this_machine_is_the_only_node(launch: Launch) -> None:
    assert launch.backend.open() == "127.0.0.1"
    (node,) = launch.backend.nodes(["cuda"])
    assert node.address == "127.0.0.1"
    assert set(node.devices) == {"cuda"}
    assert launch.backend.shared_devices


def test_an_agent_that_is_told_to_end_has_ended_with_status_0(launch: Launch) -> None:
    launch.backend.start([EAST], launch.settings_of, silence)
    pid, channel = launch.joined()
    assert launch.backend.ended() == {}
    channel.send(EndAgent())
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert launch.backend.ended()["east"] == "its process ended with status 0"


def test_an_agents_last_words_say_why_it_ended(launch: Launch) -> None:
    launch.server.close()
    launch.backend.start([EAST], launch.settings_of, silence)
    assert launch.backend.close() is None
    reason = launch.backend.ended()["east"]
    assert reason.startswith("its process ")
    log = launch.run_dir.log_file(0, "agent-east/0")
    assert launch.backend.log_file("east") == log
    assert log.exists()


def test_an_agent_that_is_started_again_leaves_no_older_self(launch: Launch) -> None:
    launch.backend.start([EAST], launch.settings_of, silence)
    first, _ = launch.joined()
    os.kill(first, signal.SIGSTOP)  # lost, but not dead
    launch.backend.start([EAST], launch.settings_of, silence)
    second, _ = launch.joined()
    assert not process_exists(first)
    assert process_exists(second)


def test_how_an_agent_was_ended_is_known_at_once(launch: Launch) -> None:
    launch.backend.start([EAST], launch.settings_of, silence)
    pid, _ = launch.joined()
    assert launch.backend.how_ended("east") == launch.backend.how_ended("west") == "", "it lives; there is none"
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert launch.backend.how_ended("east") == "its process was ended by SIGKILL"


def test_closing_ends_also_an_agent_that_does_not_end_by_itself(launch: Launch) -> None:
    launch.backend.start([EAST], launch.settings_of, silence)
    pid, _ = launch.joined()
    os.kill(pid, signal.SIGSTOP)
    launch.backend.close()
    assert not process_exists(pid)
    assert launch.backend.ended()["east"] == "its process was ended by SIGKILL"


def test_nothing_is_started_once_the_run_has_ended(launch: Launch) -> None:
    launch.backend.close()
    with pytest.raises(LaunchError, match="the run ended before agent east was started"):
        launch.backend.start((EAST,), launch.settings_of, silence)
    assert launch.backend.ended() == {}
