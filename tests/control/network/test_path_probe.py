"""Tries of a path, over real sockets: what each kind of obstacle looks like from the other end."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from dougong.addresses import Ports
from dougong.control.network.path_probe import PathListener, try_path, try_paths
from dougong.control.path_messages import PathEnd, PathResult, TryPaths
from dougong.control.server import MOST_OF_ONE
from dougong.deadlines import DEADLINES

QUICK = dataclasses.replace(DEADLINES, path_s=0.3)
EAST, WEST = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def listener() -> Iterator[PathListener]:
    made = PathListener(WEST, "secret", None, DEADLINES)
    yield made
    made.close()


@pytest.fixture
def played() -> Iterator[Callable[[Callable[[socket.socket], None]], tuple[str, int]]]:
    """A listener that does what it is given with each connection; its address."""
    listeners = []

    def play(do: Callable[[socket.socket], None]) -> tuple[str, int]:
        made = socket.create_server((WEST, 0))
        listeners.append(made)

        def serve() -> None:
            sock, _ = made.accept()
            with sock:
                do(sock)

        threading.Thread(target=serve, daemon=True).start()
        host, port = made.getsockname()
        return host, port

    yield play
    for made in listeners:
        made.close()


def end(address: tuple[str, int], name: str = "west") -> PathEnd:
    return PathEnd(name, "node1", *address, "lo", 65536, (32768, 60999))


def test_a_path_that_is_open_passes_and_again(listener: PathListener) -> None:
    for _ in range(3):
        assert try_path(*listener.address, "secret", DEADLINES) == ("passes", "")


def test_it_listens_on_the_address_that_it_is_given_and_in_the_range() -> None:
    with socket.create_server((EAST, 0)) as other:
        free = other.getsockname()[1]
    made = PathListener(EAST, "secret", Ports(free, free), DEADLINES)
    try:
        assert made.address == (EAST, free)
        assert try_path(WEST, free, "secret", QUICK)[0] == "refused"
    finally:
        made.close()
    assert try_path(EAST, free, "secret", QUICK)[0] == "refused"


def test_another_runs_listener_is_not_taken_for_ours(listener: PathListener) -> None:
    finding, text = try_path(*listener.address, "other", DEADLINES)
    # It hangs up on us before we have seen its proof: whoever lets strangers guess gives nothing away.
    assert (finding, text) == ("broken", "the other end closed the connection")


def test_who_cannot_prove_the_token_is_a_stranger(played: Callable[..., tuple[str, int]]) -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(bytes(32))
        sock.recv(96, socket.MSG_WAITALL)
        sock.sendall(bytes(64))

    assert try_path(*played(answer), "secret", QUICK) == ("stranger", "it does not know this run's token")


def test_who_takes_the_connection_and_is_silent(played: Callable[..., tuple[str, int]]) -> None:
    finding, _ = try_path(*played(lambda sock: sock.recv(1)), "secret", QUICK)
    assert finding == "unanswered"


def test_large_messages_that_do_not_arrive_are_told_from_small_ones(listener: PathListener) -> None:
    """A relay that lets small messages pass and drops the large one, as a switch with a smaller MTU does."""
    relay = socket.create_server((EAST, 0))

    def serve() -> None:
        near, _ = relay.accept()
        far = socket.create_connection(listener.address)
        near.sendall(far.recv(32, socket.MSG_WAITALL))
        far.sendall(near.recv(96, socket.MSG_WAITALL))
        near.sendall(far.recv(64, socket.MSG_WAITALL))
        time.sleep(2.0)  # what follows is lost
        near.close()
        far.close()

    threading.Thread(target=serve, daemon=True).start()
    host, port = relay.getsockname()
    assert try_path(host, port, "secret", QUICK) == ("too_large", "timed out")
    relay.close()


def test_a_machine_that_answers_nothing_is_silent() -> None:
    """A queue that is full takes no connection, as a firewall that drops."""
    with socket.create_server((WEST, 0), backlog=0) as full:
        kept = [socket.socket() for _ in range(4)]
        for sock in kept:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        finding, text = try_path(*full.getsockname(), "secret", QUICK)
        assert (finding, text) == ("silent", "timed out")
        for sock in kept:
            sock.close()


def read_to_the_end(sock: socket.socket) -> None:
    """A nonce at most, then the end: a reset where something was sent that nobody read."""
    sock.settimeout(5)
    with contextlib.suppress(ConnectionResetError), sock:
        while sock.recv(1024):
            pass


def test_strangers_neither_hang_a_listener_nor_keep_it_from_others() -> None:
    made = PathListener(WEST, "secret", None, QUICK)
    try:
        silent = [socket.create_connection(made.address) for _ in range(MOST_OF_ONE + 8)]
        for sock in silent[: MOST_OF_ONE // 2]:
            sock.sendall(b"x" * 300)  # no proof is so long, and it is none
        assert try_path(*made.address, "secret", dataclasses.replace(QUICK, path_s=5.0)) == ("passes", "")
        for sock in silent:
            read_to_the_end(sock)
    finally:
        made.close()


def test_all_are_tried_at_once(listener: PathListener) -> None:
    with socket.create_server((WEST, 0)) as closed:
        gone = closed.getsockname()
        closed.close()
        ends = (end(listener.address), end(gone, "north"), end(listener.address, "south"))
        results = try_paths(TryPaths(1, ends), "secret", DEADLINES)
        assert [(result.target, result.finding) for result in results] == [
            ("west", "passes"), ("north", "refused"), ("south", "passes"),
        ]  # fmt: skip
        assert results[1] == PathResult("north", gone[1], "refused", "[Errno 111] Connection refused")
    assert try_paths(TryPaths(1, ()), "secret", DEADLINES) == ()
