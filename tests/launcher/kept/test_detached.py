"""An agent that outlives its starter, against a controller that this test plays."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
from dougong.control.channel import Channel
from dougong.control.environment import child_environment
from dougong.control.handshake import Hello
from dougong.control.messages import AgentFailed, AgentReady, EndAgent, Message
from dougong.control.processes import process_exists
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.detached import DetachedAgent
from dougong.launcher.kept.line import AgentEnd
from dougong.records.directory import RunDir
from tests.launcher.toyrun import ROOT, wait_for

STARTER = """
import os, sys
from dougong.launcher.kept.detached import DetachedAgent
from dougong.launcher.agent.settings import AgentSettings
agent = DetachedAgent(AgentSettings.from_json(sys.stdin.readline()))
print(agent.pid, flush=True)
os._exit(0) if sys.argv[1:] else agent.wait()
"""


class Play:
    """The controller's end, and the settings of an agent that joins it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.logs.mkdir()
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), lambda text: None, DEADLINES)
        limits = dataclasses.replace(DEADLINES, controller_silence_s=600.0)  # this controller does not ping
        self.settings = AgentSettings(
            "east", "east", "cpu", 1, True, self.server.address, "secret", str(folder), ("json",), str(folder),
            deadlines=limits, ray_node="ab",
        )  # fmt: skip

    def joined(self) -> tuple[Hello, Channel]:
        return self.peers.get(timeout=60)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made = Play(tmp_path)
    yield made
    made.server.close()


def until(channel: Channel, kind: type[Message]) -> Message:
    while not isinstance(message := channel.receive(30), kind):
        pass
    return message


def fork_servers(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("way", ["killed", pytest.param("leaves", marks=pytest.mark.slow)])
def test_it_outlives_its_starter_and_ends_with_its_controller(play: Play, way: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, *(["leaves"] if way == "leaves" else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment({"MARK_OF_RAY": "devices"}),
        cwd=ROOT,
    )
    assert process.stdin is not None and process.stdout is not None
    settings = dataclasses.replace(play.settings, is_followed=way == "killed")  # nobody can tell it of a follower
    process.stdin.write(settings.to_json() + "\n")
    process.stdin.flush()
    pid = int(process.stdout.readline())
    hello, channel = play.joined()
    assert hello.agent is not None and (hello.agent.pid, hello.agent.ray_node) == (pid, "ab")
    assert b"MARK_OF_RAY=devices" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert os.getsid(pid) == pid
    if way == "killed":
        process.kill()
    process.wait(10)
    wait_for(lambda: fork_servers(pid), "its fork server", 20)
    (child,) = fork_servers(pid)
    channel.close()
    wait_for(lambda: not process_exists(pid) and not process_exists(int(child)), "their end", 20)
    assert "the controller is gone" in play.run_dir.agent_log("east").read_text()


def test_its_starter_knows_how_it_ended(play: Play) -> None:
    agent = DetachedAgent(play.settings)
    _, channel = play.joined()
    channel.send(EndAgent())
    assert agent.wait() == AgentEnd(by_controller=True)
    agent.kill()  # it has ended: no error


def test_one_that_is_taken_away_says_so_and_what_took_it(play: Play) -> None:
    """`ray stop` ends what has a name like it by SIGTERM."""
    agent = DetachedAgent(play.settings)
    _, channel = play.joined()
    assert Path(f"/proc/{agent.pid}/comm").read_text().startswith("ray::")
    until(channel, AgentReady)
    os.kill(agent.pid, signal.SIGINT)
    os.kill(agent.pid, signal.SIGTERM)
    end = agent.wait()
    assert not end.by_controller and "SIGTERM: this machine is taken from the run" in end.error
    assert until(channel, AgentFailed) == AgentFailed(end.error, is_preempted=True)


def test_one_that_is_stopped_is_killed(play: Play) -> None:
    agent = DetachedAgent(play.settings)
    play.joined()
    os.kill(agent.pid, signal.SIGSTOP)
    agent.kill()
    assert not process_exists(agent.pid)
    with pytest.raises(LaunchError, match=f"pid {agent.pid}. ended without a word$"):
        agent.wait()


def test_one_that_does_not_reach_its_controller_says_so(play: Play) -> None:
    play.server.close()
    end = DetachedAgent(play.settings).wait()
    assert "does not reach the controller at 127.0.0.1" in end.error
    assert end.error in play.run_dir.agent_log("east").read_text()


@pytest.mark.slow
def test_where_the_run_directory_is_not_no_folder_is_made(play: Play, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    agent = DetachedAgent(dataclasses.replace(play.settings, run_dir=str(elsewhere)))
    _, channel = play.joined()
    channel.send(EndAgent())
    assert agent.wait() == AgentEnd(by_controller=True)
    assert not elsewhere.exists()


def loaded(play: Play) -> tuple[int, Channel]:
    """Its fork server, which has loaded all, and its line."""
    _, channel = play.joined()
    ready = until(channel, AgentReady)
    assert isinstance(ready, AgentReady)
    return ready.fork_server_pid, channel


@pytest.mark.slow
def test_one_that_is_followed_waits_for_the_next_controller_with_its_fork_server(play: Play) -> None:
    settings = dataclasses.replace(play.settings, is_followed=True)
    agent = DetachedAgent(settings)
    ends: Queue[AgentEnd] = Queue()
    threading.Thread(target=lambda: ends.put(agent.wait())).start()
    fork_server, channel = loaded(play)
    assert not agent.go_on(settings, 0.1), "it serves this one"
    channel.close()
    assert agent.go_on(settings, 20.0)
    after, channel = loaded(play)
    assert after == fork_server
    channel.send(EndAgent())
    assert ends.get(timeout=20) == AgentEnd(by_controller=True)
    assert not process_exists(fork_server)


def test_one_that_outlives_its_starter_is_found_by_the_next_controllers(play: Play) -> None:
    """Of another controller, and of none that is older; on the same devices."""
    play.server.fence = 3  # it plays all three
    settings = dataclasses.replace(play.settings, is_followed=True, outlives=True, fence=1)
    first = DetachedAgent(settings)
    fork_server, channel = loaded(play)
    channel.close()
    second = DetachedAgent(dataclasses.replace(settings, fence=2))
    assert second.pid == first.pid
    with pytest.raises(LaunchError, match="ended without a word"):
        first.wait()  # its line leads to nobody any more
    after, channel = loaded(play)
    assert after == fork_server
    channel.close()
    other = DetachedAgent(dataclasses.replace(settings, fence=3, visible="1"))
    assert other.pid != first.pid and not process_exists(first.pid), "it has other devices than Ray gives now"
    _, channel = loaded(play)
    channel.send(EndAgent())
    assert other.wait() == AgentEnd(by_controller=True)


def test_one_that_stands_stopped_is_ended_by_the_next_starter(play: Play) -> None:
    play.server.fence = 2
    settings = dataclasses.replace(play.settings, outlives=True, is_followed=True, fence=1)
    first = DetachedAgent(settings)
    play.joined()
    os.kill(first.pid, signal.SIGSTOP)
    limits = dataclasses.replace(settings.deadlines, controller_silence_s=0.5, agent_waits_s=0.5)
    second = DetachedAgent(dataclasses.replace(settings, fence=2, deadlines=limits))
    assert second.pid != first.pid and not process_exists(first.pid)
    play.joined()
    second.kill()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["it is taken away", "nobody comes"])
def test_one_that_waits_does_not_do_so_for_ever(play: Play, way: str) -> None:
    limits = dataclasses.replace(play.settings.deadlines, next_controller_s=1.0 if way == "nobody comes" else 600.0)
    agent = DetachedAgent(dataclasses.replace(play.settings, is_followed=True, deadlines=limits))
    fork_server, channel = loaded(play)
    channel.close()
    if way == "it is taken away":
        wait_for(lambda: "the controller is gone" in play.run_dir.agent_log("east").read_text(), "its loss", 20)
        os.kill(agent.pid, signal.SIGTERM)
    end = agent.wait()
    assert not end.by_controller and ("SIGTERM: this machine is taken" in end.error) == (way == "it is taken away")
    wait_for(lambda: not process_exists(agent.pid) and not process_exists(fork_server), "their end", 20)
