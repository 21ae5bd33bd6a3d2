"""An agent's part in the trial of paths, with a controller and other ends that this test plays."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import psutil
import pytest
from dougong.addresses import Ports
from dougong.control.channel import Channel, UnreachableError
from dougong.control.handshake import AgentFacts, Hello
from dougong.control.network.path_probe import PathListener, try_path
from dougong.control.path_messages import PathEnd, PathsOpen, PathsTried, TryPaths
from dougong.control.server import Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.agent.paths import (
    AgentPaths,
    describe_end,
    reach_controller,
    source_address,
    system_range,
    workers_address,
)
from dougong.launcher.agent.settings import AgentSettings

FACTS = AgentFacts("east", "east", "here", 1, "cpu", None, {}, {})


def settings_for(controller: tuple[str, int], **more: object) -> AgentSettings:
    made = AgentSettings("east", "east", "cpu", 1, True, controller, "secret", "/run", (), "/")
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
def controller() -> Iterator[tuple[Server, Queue[tuple[Hello, Channel]]]]:
    peers: Queue[tuple[Hello, Channel]] = Queue()
    server = Server("127.0.0.1", "secret", lambda h, c: peers.put((h, c)), lambda text: None, DEADLINES)
    yield server, peers
    server.close()


def test_an_agent_says_where_it_can_be_tried_and_what_it_has_found(
    controller: tuple[Server, Queue[tuple[Hello, Channel]]],
) -> None:
    server, peers = controller
    settings = settings_for(server.address)
    channel = reach_controller(settings, FACTS)
    _, theirs = peers.get(timeout=10)
    paths = AgentPaths(settings, channel)
    opened = theirs.receive(10)
    assert isinstance(opened, PathsOpen)
    assert (opened.end.name, opened.end.host, opened.end.interface) == ("east", "127.0.0.1", "lo")
    assert try_path(opened.end.host, opened.end.port, "secret", DEADLINES) == ("passes", "")

    other = PathListener("127.0.0.2", "secret", None, DEADLINES)
    paths.answer(TryPaths(7, (PathEnd("west", "there", *other.address, "lo", None, (1, 2)),)))
    answer = theirs.receive(10)
    assert isinstance(answer, PathsTried) and answer.number == 7
    assert [(result.target, result.finding) for result in answer.results] == [("west", "passes")]
    other.close()
    paths.close()
    assert try_path(opened.end.host, opened.end.port, "secret", DEADLINES)[0] == "refused"
    paths.close()


def test_a_controller_that_is_not_reached_is_named_with_both_ends_and_what_to_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(UnreachableError) as caught:
        reach_controller(settings_for(address), FACTS)
    first, last = system_range()
    assert str(caught.value) == (
        f"{socket.gethostname()} (127.0.0.1) does not reach the controller at 127.0.0.1:{address[1]}: [Errno 111] "
        f"Connection refused; open the TCP ports {first}-{last} of 127.0.0.1 to 127.0.0.1 (or fewer: name them in the "
        "job file, `ports: 20000-20100`)"
    )
    with pytest.raises(UnreachableError, match=r"open the TCP ports 20000-20100 of .* \(`ports` of the job\)"):
        reach_controller(settings_for(address, ports=Ports(20000, 20100)), FACTS)


def test_a_controller_that_is_not_reached_within_the_limit_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        kept = [socket.socket() for _ in range(4)]
        for sock in kept:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        quick = dataclasses.replace(DEADLINES, agent_connect_s=0.2)
        with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s; open the TCP ports"):
            reach_controller(settings_for(full.getsockname(), deadlines=quick), FACTS)
        for sock in kept:
            sock.close()


def test_workers_speak_over_the_interface_that_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert workers_address("10.9.8.7") == "10.9.8.7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert workers_address("10.9.8.7") == "127.0.0.1"
    has_v6 = any(entry.family == socket.AF_INET6 for entry in psutil.net_if_addrs()["lo"])
    assert workers_address("fd00::7") == ("::1" if has_v6 else "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth77")
    with pytest.raises(LaunchError, match=r"GLOO_SOCKET_IFNAME=eth77: .* has no such interface .* it has: .*lo"):
        workers_address("10.9.8.7")


def test_an_end_is_described_with_what_an_advice_needs() -> None:
    described = describe_end("east", ("127.0.0.1", 4711), None)
    assert described == PathEnd(
        "east", socket.gethostname(), "127.0.0.1", 4711, "lo", psutil.net_if_stats()["lo"].mtu, system_range()
    )
    nowhere = describe_end("east", ("192.0.2.1", 4711), Ports(20000, 20100))
    assert (nowhere.interface, nowhere.mtu, nowhere.ports, nowhere.are_chosen) == (None, None, (20000, 20100), True)


@pytest.mark.parametrize(("text", "expected"), [("1024\t5000\n", (1024, 5000)), ("what", (32768, 60999))])
def test_the_systems_range_is_read(tmp_path: Path, text: str, expected: tuple[int, int]) -> None:
    file = tmp_path / "range"
    assert system_range(file) == (32768, 60999)
    file.write_text(text)
    assert system_range(file) == expected


def test_the_way_to_an_address_has_an_address_of_its_own() -> None:
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert source_address("no address") == socket.gethostname()
