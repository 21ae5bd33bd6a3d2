"""Frames, the handshake, and everything foreign that may knock at the port."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from queue import Empty, Queue
from typing import Any

import pytest
from dougong.control.channel import MAX_HELLO_BYTES, Channel, FrameBuffer, connect
from dougong.control.handshake import AgentFacts, Challenge, Hello, Welcome
from dougong.control.messages import (
    AgentFailed,
    EndAgent,
    KillWorkers,
    Message,
    Ping,
    ProtocolError,
    StopAfterStep,
    encode,
)
from dougong.control.server import MOST_OF_ONE, Server
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from hypothesis import given
from hypothesis import strategies as st
from tests.flood import end, flood

EAST = AgentFacts("east", "east", "node-1", 7, "cpu", None, {"torch": "2.13.0"}, {})
SHORT = dataclasses.replace(DEADLINES, send_s=0.2)

lines = st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=6)


def frames_of(buffer: FrameBuffer) -> list[bytes]:
    found = []
    while (frame := buffer.next_frame()) is not None:
        found.append(frame)
    return found


@given(lines, st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_frames_come_back_whole_however_they_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in sent)
    buffer, got, i = FrameBuffer(), [], 0
    while stream:
        size = cuts[i % len(cuts)]
        buffer.feed(stream[:size])
        got += frames_of(buffer)
        stream, i = stream[size:], i + 1
    assert got == sent


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_frame_that_is_too_long_is_refused_once_and_the_next_one_is_whole(cuts: list[int]) -> None:
    buffer, stream, i = FrameBuffer(limit_bytes=100), b"first\n" + b"x" * 350 + b"\nsecond\n", 0
    got: list[bytes | str] = []
    while stream:
        size = cuts[i % len(cuts)]
        buffer.feed(stream[:size])
        stream, i = stream[size:], i + 1
        try:
            got += frames_of(buffer)
        except ProtocolError as error:
            got.append(str(error))
    got += frames_of(buffer)
    assert [item for item in got if isinstance(item, str)] == ["a message of more than 100 bytes"]
    assert [item for item in got if isinstance(item, bytes)][-1] == b"second"


def test_a_frame_without_end_is_refused_before_its_end() -> None:
    buffer = FrameBuffer(limit_bytes=100)
    buffer.feed(b"x" * 99)
    assert buffer.next_frame() is None
    buffer.feed(b"xx")
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        buffer.next_frame()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket at its other end."""
    near, far = socket.socketpair()
    with near, far:
        yield Channel(near, "worker east/0", SHORT), far


BAD = b'{"kind":"nonsense"}\n'


def test_a_malformed_message_costs_nothing_but_itself_when_draining(pair: tuple[Channel, socket.socket]) -> None:
    channel, far = pair
    far.sendall(encode(KillWorkers(1)) + BAD + encode(KillWorkers(2)) + b"junk\n" + encode(KillWorkers(3)))
    for text in ("unknown message kind nonsense", "not a message: b'junk'"):
        with pytest.raises(ProtocolError, match=f"worker east/0: {text}"):
            channel.drain()
    assert channel.drain() == [KillWorkers(1), KillWorkers(2), KillWorkers(3)]
    assert channel.drain() == []
    far.sendall(encode(Ping()))
    assert channel.drain() == [Ping()]


def test_a_malformed_message_costs_nothing_but_itself_when_receiving(pair: tuple[Channel, socket.socket]) -> None:
    channel, far = pair
    far.sendall(encode(KillWorkers(1)) + BAD + encode(KillWorkers(2)))
    far.shutdown(socket.SHUT_WR)
    assert channel.receive(5) == KillWorkers(1)
    with pytest.raises(ProtocolError, match="unknown message kind nonsense"):
        channel.receive(5)
    assert channel.receive(5) == KillWorkers(2)
    with pytest.raises(EOFError, match="worker east/0 closed the connection"):
        channel.receive(5)


def test_the_end_comes_after_the_last_message_even_when_that_is_malformed(pair: tuple[Channel, socket.socket]) -> None:
    channel, far = pair
    far.sendall(encode(Ping()) + BAD)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError):
        channel.drain()
    assert channel.drain() == [Ping()]
    with pytest.raises(EOFError):
        channel.drain()


def test_receive_has_a_deadline_and_names_who_was_waited_for(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(TimeoutError, match=r"^worker east/0 has sent no message within 0\.01 s$"):
        pair[0].receive(0.01)


@pytest.mark.parametrize(
    ("limit", "words"),
    [("client_answer_s", "within 5 s$"), ("agents_join_s", r"within 120 s \(fault\.deadlines\.agents_join_s\)$")],
)
def test_a_deadline_names_the_key_that_sets_it(pair: tuple[Channel, socket.socket], limit: str, words: str) -> None:
    with pytest.raises(TimeoutError, match=words):
        pair[0].receive(0.01, limit)


def test_a_peer_that_does_not_read_is_named(pair: tuple[Channel, socket.socket]) -> None:
    with pytest.raises(TimeoutError, match=r"worker east/0 has read nothing for 0\.2 s, so agent_failed was not sent"):
        pair[0].send(AgentFailed("y" * (1 << 24)))


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


class Listener:
    """A server that keeps who has come and who was refused."""

    def __init__(self) -> None:
        self.peers: Queue[tuple[Hello, Channel]] = Queue()
        self.refused: Queue[str] = Queue()
        self.server = Server("127.0.0.1", "secret", lambda h, c: self.peers.put((h, c)), self.refused.put, DEADLINES)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.close()


def test_both_sides_prove_themselves_and_then_talk(listener: Listener) -> None:
    client = connect(listener.server.address, "secret", EAST, DEADLINES)
    hello, channel = listener.peers.get(timeout=5)
    assert hello.agent == EAST
    assert channel.peer == "agent east at 127.0.0.1"
    assert client.peer == f"controller at 127.0.0.1:{listener.server.address[1]}"
    assert client.local_address == channel.peer_address == "127.0.0.1"
    channel.send(StopAfterStep(3))
    assert client.receive(5) == StopAfterStep(3)
    big = AgentFailed("y" * (MAX_HELLO_BYTES * 3))
    sender = threading.Thread(target=lambda: client.send(big))
    sender.start()
    assert channel.receive(5) == big
    sender.join()
    client.send(Ping())
    client.send(EndAgent())
    client.close()
    assert drain_all(channel) == [Ping(), EndAgent()]
    assert channel.peer_address in ("", "127.0.0.1")


def test_what_comes_right_behind_the_welcome_is_not_lost() -> None:
    big = AgentFailed("y" * (MAX_HELLO_BYTES * 3))
    refused: list[str] = []
    server = Server("127.0.0.1", "secret", lambda _, channel: channel.send(big), refused.append, DEADLINES)
    client = connect(server.address, "secret", EAST, DEADLINES)
    assert client.receive(5) == big
    server.close()
    assert not refused


def test_a_client_says_nothing_of_itself(listener: Listener) -> None:
    connect(listener.server.address, "secret", None, DEADLINES).close()
    hello, channel = listener.peers.get(timeout=5)
    assert hello.agent is None
    assert channel.peer == "client at 127.0.0.1"


def test_a_wrong_token_is_refused_on_both_sides(listener: Listener) -> None:
    with pytest.raises(LaunchError, match="refused this connection"):
        connect(listener.server.address, "wrong", EAST, DEADLINES)
    assert "token does not match" in listener.refused.get(timeout=5)
    with pytest.raises(Empty):
        listener.peers.get_nowait()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([Challenge("00"), Welcome("0" * 64)], "token does not match"),
        ([Ping()], "the controller sent ping in the place of challenge"),
        ([Challenge("00"), Challenge("00")], "the controller sent challenge in the place of welcome"),
    ],
)
def test_a_controller_that_does_not_know_the_token_is_not_obeyed(answers: list[Message], reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:

        def pretend() -> None:
            sock, _ = impostor.accept()
            channel = Channel(sock, "the victim", DEADLINES)
            channel.send(answers[0])
            with contextlib.suppress(EOFError, OSError):
                channel.receive(5)
                channel.send(answers[-1])

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(LaunchError, match=reason):
            connect(impostor.getsockname(), "secret", EAST, DEADLINES)
        thread.join()


@pytest.mark.parametrize(("agent", "limit"), [(EAST, "handshake_s"), (None, "client_answer_s")])
def test_a_controller_that_says_nothing_is_given_up(agent: AgentFacts | None, limit: str) -> None:
    short = dataclasses.replace(DEADLINES, **{limit: 0.05})
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(LaunchError, match=r"the controller has sent no message within 0\.05 s"),
    ):
        connect(silent.getsockname(), "secret", agent, short)


@pytest.mark.parametrize(
    "junk",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" * 40 + b"\n", b'{"kind":"stop_run","now":true}\n',
     b'{"kind":"hello"}\n', b'{"kind":"hello","proof":7,"nonce":"0"}\n', b"z" * (1 << 17), b""],
)  # fmt: skip
def test_strangers_are_refused_and_the_server_lives_on(listener: Listener, junk: bytes) -> None:
    with socket.create_connection(listener.server.address, timeout=5) as stranger:
        with contextlib.suppress(OSError):  # the server may hang up before the end of it
            stranger.sendall(junk)
            stranger.shutdown(socket.SHUT_WR)
        assert "127.0.0.1: refused a connection" in listener.refused.get(timeout=5)
    connect(listener.server.address, "secret", None, DEADLINES).close()
    assert listener.peers.get(timeout=5)[0].agent is None


def test_silent_strangers_are_bounded_and_keep_nobody_out(listener: Listener) -> None:
    silent = [socket.create_connection(listener.server.address, timeout=5) for _ in range(MOST_OF_ONE + 8)]
    while "too many unproven" not in listener.refused.get(timeout=5):
        pass  # who had to go is told as well
    for agent in (None, EAST):
        connect(listener.server.address, "secret", agent, DEADLINES).close()
        assert listener.peers.get(timeout=5)[0].agent == agent
    for sock in silent:
        sock.close()


def test_thousands_of_silent_connections_cost_little_and_keep_nobody_out(listener: Listener) -> None:
    """They come from the address of agents and clients, and each that is ended comes again."""
    with flood(listener.server.address, 3000) as strangers:
        for agent in (None, EAST) * 4:
            connect(listener.server.address, "secret", agent, DEADLINES).close()
            assert listener.peers.get(timeout=5)[0].agent == agent
            assert threading.active_count() < 20
        num_made = end(strangers)
    assert num_made > 3000
    told = [listener.refused.get() for _ in range(listener.refused.qsize())]
    assert told[0] == "127.0.0.1: too many unproven connections at once"
    assert len(told) <= 1 + len(str(num_made))


def test_an_agent_serves_no_controller_that_another_has_followed(listener: Listener) -> None:
    listener.server.fence = 2
    for fence in (1, 2):
        connect(listener.server.address, "secret", dataclasses.replace(EAST, fence=fence), DEADLINES).close()
    with pytest.raises(LaunchError, match="it is controller 2 of the run, which controller 3 has followed"):
        connect(listener.server.address, "secret", dataclasses.replace(EAST, fence=3), DEADLINES)


def test_a_closed_server_takes_nobody_and_leaves_its_channels_open(listener: Listener) -> None:
    client = connect(listener.server.address, "secret", EAST, DEADLINES)
    _, channel = listener.peers.get(timeout=5)
    listener.server.close()
    with pytest.raises(LaunchError):
        connect(listener.server.address, "secret", EAST, DEADLINES)
    channel.send(Ping())
    assert client.receive(5) == Ping()


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address: Any = taken.getsockname()
    with pytest.raises(LaunchError, match=f"127.0.0.1:{address[1]}: cannot be reached"):
        connect(address, "secret", None, DEADLINES)


def test_the_token_never_travels(listener: Listener) -> None:
    """A stranger in between sees nonces and proofs only."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as middle:

        def forward() -> None:
            client, _ = middle.accept()
            server = socket.create_connection(listener.server.address)
            for source, target in ((server, client), (client, server), (server, client)):
                data = source.recv(65536)
                seen.append(data)
                target.sendall(data)

        thread = threading.Thread(target=forward)
        thread.start()
        connect(middle.getsockname(), "secret", EAST, DEADLINES)
        thread.join()
    assert len(seen) == 3
    assert b"secret" not in b"".join(seen)
    assert json.loads(seen[0])["kind"] == "challenge"
