"""Frames, the handshake, and everything foreign that may knock at the port."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Any

import pytest
from dougong.control import channel
from dougong.control.channel import Channel, FrameBuffer, Message, ProtocolError, Server, connect, decode, encode
from dougong.errors import LaunchError
from hypothesis import given
from hypothesis import strategies as st

messages = st.lists(
    st.fixed_dictionaries({"kind": st.text(min_size=1), "generation": st.integers(0, 9), "x": st.text()}), max_size=5
)


@given(messages, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_frames_come_back_whole_however_they_are_cut(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(encode(m["kind"], m["generation"], {"x": m["x"]}) for m in sent)
    buffer, got, i = FrameBuffer(), [], 0
    while stream:
        size = cuts[i % len(cuts)]
        got += buffer.feed(stream[:size])
        stream, i = stream[size:], i + 1
    assert got == sent


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"hello",
        b"[]",
        b'{"kind": 7, "generation": 0}',
        b'{"kind": "x"}',
        b'{"kind": "x", "generation": true}',
        b'{"kind": "x", "generation": "1"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        decode(frame)


def test_a_frame_without_end_is_refused() -> None:
    buffer = FrameBuffer(limit_bytes=100)
    buffer.feed(b"x" * 99)
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        buffer.feed(b"xx")


def drain_all(channel: Channel) -> list[Message]:
    """Everything until the end of the stream, as an agent reads it."""
    got: list[Message] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            got += channel.drain()
        except EOFError:
            return got
    raise AssertionError(f"no end of the stream after {got}")


class Ear:
    """A server that keeps what it heard."""

    def __init__(self) -> None:
        self.peers: Queue[tuple[Message, Channel]] = Queue()
        self.refused: Queue[str] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), self.refused.put)


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    yield made
    made.server.close()


def test_both_sides_prove_themselves_and_then_talk(ear: Ear) -> None:
    client = connect(ear.server.address, "secret", {"role": "agent", "agent": "east"})
    hello, channel = ear.peers.get(timeout=5)
    assert hello == {"kind": "hello", "generation": 0, "role": "agent", "agent": "east"}
    channel.send("fork", 3, workers=["east/0"])
    assert client.receive(5) == {"kind": "fork", "generation": 3, "workers": ["east/0"]}
    big = "y" * (channel.MAX_HELLO_BYTES * 3)
    sender = threading.Thread(target=lambda: client.send("part", 3, part=big))
    sender.start()
    assert channel.receive(5)["part"] == big
    sender.join()
    client.send("one", 1)
    client.send("two", 1)
    client.close()
    assert [m["kind"] for m in drain_all(channel)] == ["one", "two"]


def test_a_wrong_token_is_refused_on_both_sides(ear: Ear) -> None:
    with pytest.raises(LaunchError, match="refused this connection"):
        connect(ear.server.address, "wrong", {"role": "agent"})
    assert "token does not match" in ear.refused.get(timeout=5)
    with pytest.raises(Empty):
        ear.peers.get_nowait()


def test_a_controller_that_does_not_know_the_token_is_not_obeyed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pretend() -> None:
            sock, _ = listener.accept()
            impostor = Channel(sock)
            impostor.send("challenge", nonce="00")
            impostor.receive(5)
            impostor.send("welcome", proof="0" * 64)

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(LaunchError, match="token does not match"):
            connect(listener.getsockname(), "secret", {"role": "agent"})
        thread.join()


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" * 40 + b"\n", b'{"kind":"stop","generation":0}\n',
     b'{"kind":"hello","generation":0}\n', b'{"kind":"hello","generation":0,"proof":7}\n', b"z" * (1 << 17), b""],
)  # fmt: skip
def test_strangers_are_refused_and_the_server_lives_on(ear: Ear, junk: bytes) -> None:
    with socket.create_connection(ear.server.address, timeout=5) as stranger:
        with contextlib.suppress(OSError):  # the server may hang up before the end of it
            stranger.sendall(junk)
            stranger.shutdown(socket.SHUT_WR)
        assert "refused a connection" in ear.refused.get(timeout=5)
    connect(ear.server.address, "secret", {"role": "client"}).close()
    assert ear.peers.get(timeout=5)[0]["role"] == "client"


def test_silent_strangers_are_bounded(ear: Ear) -> None:
    silent = [socket.create_connection(ear.server.address, timeout=5) for _ in range(channel._MAX_STRANGERS + 3)]
    assert "too many unproven" in ear.refused.get(timeout=5)
    for sock in silent:
        sock.close()


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: Any = listener.getsockname()
    with pytest.raises(LaunchError, match=f"127.0.0.1:{address[1]}: cannot be reached"):
        connect(address, "secret", {})


def test_receive_has_a_deadline() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        Channel(ours).receive(0.01)


def test_the_token_never_travels(ear: Ear) -> None:
    """A stranger in between sees nonces and proofs only."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as middle:

        def forward() -> None:
            client, _ = middle.accept()
            server = socket.create_connection(ear.server.address)
            for source, target in ((server, client), (client, server), (server, client)):
                data = source.recv(65536)
                seen.append(data)
                target.sendall(data)

        thread = threading.Thread(target=forward)
        thread.start()
        connect(middle.getsockname(), "secret", {"role": "client"})
        thread.join()
    assert len(seen) == 3
    assert b"secret" not in b"".join(seen)
    assert json.loads(seen[0])["kind"] == "challenge"
