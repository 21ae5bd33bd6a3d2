"""What Ray is asked for, and what is told of an actor's end. Agents over a real Ray: test_ray_cluster.py and
tests/lab/test_places.py."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from dougong.control.channel import Channel
from dougong.control.handshake import Hello
from dougong.control.messages import AgentReady
from dougong.control.processes import process_exists
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.backends.ray_agents import PART_OF_DEVICE, RayAgents, devices_asked, last_words, plain_text
from dougong.planner.placement import AgentSpec
from tests.launcher.toyrun import wait_for

CREATION = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::AgentActor.__init__()\x1b[39m "
    '(pid=7, ip=10.0.0.2)\n  File "x.py", line 1, in __init__\n    import dougong\n'
    "ModuleNotFoundError: No module named 'dougong'\n"
)


class TaskError(RuntimeError):
    """As Ray hands on what an actor's method raised."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


def test_ray_is_asked_for_devices_alone() -> None:
    assert devices_asked(AgentSpec("east", "east", "both", "cpu", 1, 0, 8)) == {}
    west = AgentSpec("west", "west", "both", "npu", 1, 0, 2)
    assert devices_asked(west) == {"NPU": 2.0}
    assert devices_asked(replace(west, shares_device=True)) == {"NPU": PART_OF_DEVICE}, "the rest is for others there"
    assert devices_asked(replace(west, avoided=("NPU-1",))) == {"NPU": 3.0}, "one of them may be the one to leave out"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError(CREATION),
            "ModuleNotFoundError: No module named 'dougong'; install dougong on that machine for the Python with "
            "which its `ray start` was typed",
        ),
        (RuntimeError("The actor died\n\tpid: 7\nThe actor is dead because its node has died.\n"),
         "The actor is dead because its node has died."),
        (TaskError("\x1b[36mray::serve()\x1b[39m\nLaunchError: a\nb", LaunchError("a\nb")), "a; b"),
        (RuntimeError(""), "RuntimeError"),
    ],
)  # fmt: skip
def test_an_actors_last_line_says_what_it_died_of(error: Exception, words: str) -> None:
    assert last_words(error) == words


def test_colours_are_left_out() -> None:
    assert plain_text(RuntimeError(CREATION)).startswith("The actor died because of an error raised in its creation")
    assert "\x1b" not in plain_text(RuntimeError(CREATION))


class Life:
    """One controller's time, played by this test, with agents that hold devices of Ray's."""

    def __init__(self, agents: RayAgents, folder: Path, *specs: AgentSpec) -> None:
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.server = Server("127.0.0.1", "s", lambda h, c: self.peers.put((h, c)), lambda text: None, DEADLINES)
        settings = AgentSettings(
            "", "east", "cpu", 1, True, self.server.address, "s", str(folder), ("json",), str(folder), is_followed=True
        )
        agents.start(specs, lambda spec: replace(settings, name=spec.name), lambda text: None)
        joined = [self.peers.get(timeout=60) for _ in specs]
        self.pids = {hello.agent.agent: hello.agent.pid for hello, _ in joined if hello.agent is not None}
        self.channels = [channel for _, channel in joined]
        for channel in self.channels:
            while not isinstance(channel.receive(60), AgentReady):
                pass

    def die(self) -> None:
        for channel in self.channels:
            channel.close()
        self.server.close()


@pytest.fixture
def node() -> Iterator[str]:
    """The one node of a Ray with three devices."""
    import ray

    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80_000_000, "log_to_driver": False}
    ray.init("local", num_cpus=1, resources={"NPU": 3}, _node_ip_address="127.0.0.1", **options)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


def free() -> float:
    import ray

    return float(ray.available_resources().get("NPU", 0.0))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_agents_go_over_to_the_next_controller_with_their_devices(tmp_path: Path, node: str) -> None:
    agents = RayAgents(dataclasses.replace(DEADLINES, agent_waits_s=3.0))
    east, west, north = (AgentSpec(name, name, "both", "npu", 1, 0, 1, node=node) for name in ("east", "west", "north"))
    first = Life(agents, tmp_path, east, west, north)
    wait_for(lambda: free() == 0.0, "all devices are held")
    groups = agents.groups
    os.kill(first.pids["west"], signal.SIGSTOP)
    first.die()
    agents.hand_over()
    assert agents.groups == groups and agents.ended() == {}
    wider = replace(east, num_workers=2)
    second = Life(agents, tmp_path, wider, west)
    assert not any(map(process_exists, first.pids.values())), "another spec, stopped, and not wanted"
    second.die()
    agents.hand_over()
    third = Life(agents, tmp_path, wider, west)
    assert third.pids == second.pids and free() == 0.0
    third.die()
    assert agents.ended() == {}, "whether they are lost is the controller's to say"
    agents.end(["east", "west"])
    assert agents.groups == set()
    wait_for(lambda: free() == 3.0 and not any(map(process_exists, third.pids.values())), "all is given back")
