"""gloo's own listeners, made by torch itself, in a range that it knows nothing of."""

from __future__ import annotations

import ctypes
import socket
import threading
from typing import Any

import pytest
import torch.distributed as dist
from dougong.addresses import Ports
from dougong.control.ports import NoPortError, fading, listen
from dougong.control.worker.listen_ports import LIBRARIES, PortKeeper, entries_of, own_ports
from tests.control.test_ports import free_range


def make_device(host: str) -> Any:
    """What a process group of gloo speaks through; it listens from the first moment."""
    library: Any = dist.ProcessGroupGloo
    return library.create_device(hostname=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_gloo_listens_within_the_range_and_afterwards_where_it_likes(host: str) -> None:
    ports, before = free_range(4), own_ports()
    with PortKeeper(ports) as keeper:
        devices = [make_device(host) for _ in range(4)]
        assert own_ports() - before == set(ports.beginning_at(0))
    keeper.check()
    devices.append(make_device(host))
    (outside,) = own_ports() - before - set(ports.beginning_at(0))
    with pytest.raises(NoPortError, match=rf"listens on port {outside}, outside of ports {ports}: its torch takes no"):
        keeper.check()


def test_ports_that_others_hold_are_passed_over_and_a_full_range_is_told() -> None:
    ports = free_range(3)
    with listen("127.0.0.1", ports), socket.socket() as bound:  # as another worker between its two calls
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", next(port for port in ports.beginning_at(0) if port not in own_ports())))
        with PortKeeper(ports) as keeper:
            device = make_device("127.0.0.1")
            keeper.check()
        assert device is not None
        with pytest.raises(NoPortError, match=f"all 3 ports of {ports} are taken on "), PortKeeper(ports):
            make_device("127.0.0.1")


def test_a_port_that_is_held_for_a_moment_is_waited_for() -> None:
    """As another worker that tries an address out, where a range is as long as what listens there."""
    ports = free_range(1)
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", next(iter(ports.beginning_at(0)))))
        timer = threading.Timer(0.3, tried.close)
        timer.start()
        with PortKeeper(ports) as keeper:
            device = make_device("127.0.0.1")
            keeper.check()
        timer.join(5)
    assert device is not None


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="Cannot resolve 192.0.2.1 to a"), PortKeeper(free_range(3)):
        make_device("192.0.2.1")
    with pytest.raises(KeyError), PortKeeper(free_range(3)):
        raise KeyError


def test_without_a_range_nothing_is_done() -> None:
    with PortKeeper(None) as keeper:
        device = make_device("127.0.0.1")
        keeper.check()
    assert device is not None


def test_the_table_holds_afterwards_what_it_held_before() -> None:
    def table() -> list[int | None]:
        return [ctypes.c_void_p.from_address(entry).value for entry in entries_of(b"bind", LIBRARIES)]

    before = table()
    with PortKeeper(free_range(1)):
        with PortKeeper(free_range(1)):
            assert all(new != old for new, old in zip(table(), before, strict=True))
        assert all(new != old for new, old in zip(table(), before, strict=True))
    assert table() == before


def test_torch_calls_bind_through_its_table_and_other_names_are_not_found() -> None:
    assert entries_of(b"bind", LIBRARIES)
    assert not entries_of(b"bind", ("libnothing",))
    assert not entries_of(b"no_such_function", LIBRARIES)


def test_only_a_stream_that_leaves_the_choice_is_given_a_port() -> None:
    three = free_range(3)
    ports, own_choice = Ports(three.first, three.first + 1), three.last
    python = ("_socket", "python", "libpython")  # wherever this Python has its own calls
    with PortKeeper(ports, python), socket.socket() as chosen, socket.socket() as left:
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 0))
            assert datagrams.getsockname()[1] not in ports
        chosen.bind(("127.0.0.1", own_choice))
        assert chosen.getsockname()[1] == own_choice
        with pytest.raises(OSError, match="already in use"):
            left.bind(("127.0.0.1", own_choice))
        left.bind(("127.0.0.1", 0))
        assert left.getsockname()[1] in ports


def test_a_port_that_only_fading_connections_hold_is_taken_again() -> None:
    """As those of a worker that was killed a moment ago, in a range that has room for nothing else."""
    ports = free_range(1)
    port = ports.first
    with PortKeeper(ports, ("_socket", "python", "libpython")), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            listener.listen()
            server, _ = listener.accept()
            server.close()  # who closes first keeps the connection for a minute
            assert client.recv(1) == b""
    assert fading([port]) == [port]
    with PortKeeper(ports) as keeper:
        device = make_device("127.0.0.1")
        keeper.check()
    assert device is not None
    assert fading([port]) == [], "somebody listens there"
