"""Listening: at any address of this machine, and within a range that others use too."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from dougong.addresses import Ports
from dougong.control.ports import NoPortError, listen


def free_range(count: int) -> Ports:
    """As many ports in a row of which nobody has one just now."""
    ranges = (Ports(first, first + count - 1) for first in range(21000, 32000, count))
    return next(ports for ports in ranges if all(map(is_free, ports.beginning_at(0))))


def is_free(port: int) -> bool:
    with socket.socket() as sock:  # that shares with nobody, not even with connections that fade away
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_without_a_range_the_system_chooses(opened: contextlib.ExitStack, host: str) -> None:
    sock = opened.enter_context(listen(host, None))
    name = sock.getsockname()
    assert name[0] == host
    assert name[1] > 0
    opened.enter_context(socket.create_connection(name[:2], timeout=5))
    sock.accept()[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_range_is_kept_to_until_it_is_full(opened: contextlib.ExitStack, host: str) -> None:
    ports = free_range(4)
    got = [opened.enter_context(listen(host, ports)).getsockname()[1] for _ in range(4)]
    assert sorted(got) == list(ports.beginning_at(0))
    with pytest.raises(NoPortError) as caught:
        listen(host, ports)
    words = str(caught.value)
    assert f"all 4 ports of {ports} are taken on {socket.gethostname()}" in words
    assert f"4 by process {os.getpid()}" in words
    assert "widen `ports` in the job file (or DOUGONG_PORTS)" in words


def test_a_port_that_somebody_else_holds_is_passed_over(opened: contextlib.ExitStack) -> None:
    ports = free_range(3)
    opened.enter_context(socket.create_server(("127.0.0.1", ports.first + 1)))
    got = {opened.enter_context(listen("127.0.0.1", ports)).getsockname()[1] for _ in range(2)}
    assert got == {ports.first, ports.last}


def test_a_port_that_is_bound_and_not_yet_listened_on_is_passed_over(opened: contextlib.ExitStack) -> None:
    """Two who bind at once may both succeed where both allow it; only one of them can listen."""
    ports = free_range(2)
    bound = opened.enter_context(socket.socket())
    bound.bind(("127.0.0.1", ports.first))
    assert opened.enter_context(listen("127.0.0.1", ports)).getsockname()[1] == ports.last


def test_an_address_of_another_machine_is_refused_with_its_name() -> None:
    with pytest.raises(NoPortError, match=rf"cannot listen on 192\.0\.2\.1:0 of {socket.gethostname()}: "):
        listen("192.0.2.1", None)
    with pytest.raises(NoPortError, match=rf"cannot listen on \[2001:db8::1\]:\d+ of {socket.gethostname()}: "):
        listen("2001:db8::1", free_range(3))
