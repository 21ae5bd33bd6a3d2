"""How agents, clients and the controller speak: typed messages, one JSON object a line, over TCP.

A connection begins with a proof on both sides that the run's token is known (HMAC over a fresh
nonce, so the token itself never travels). Whatever is foreign or malformed is refused and reported,
and never ends a listener.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import select
import socket
import threading
import time
from collections import deque
from typing import TypeVar

from dougong.addresses import show_address
from dougong.control.handshake import AgentFacts, Challenge, Hello, Welcome
from dougong.control.messages import Message, ProtocolError, decode, encode, is_beat
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError

MAX_HELLO_BYTES = 64 * 1024
MAX_FRAME_BYTES = 256 * 1024 * 1024
_SEGMENT_BYTES = 1200
"""They fit into every network's packets."""
_MAX_READS = 64
_READ_BYTES = 1 << 18

_Kind = TypeVar("_Kind", Challenge, Hello, Welcome)


class FrameBuffer:
    """Cuts a byte stream into frames, one a line. Pure.

    A frame that grows over the limit is refused as soon as it does, and the rest of its line is
    passed over: memory stays bounded, and the stream goes on with the next line.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._skipping = False
        self._frames: deque[bytes | None] = deque()  # None: one that was too long

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._keep(line)
            self._end_frame()
        self._keep(rest)

    def next_frame(self) -> bytes | None:
        """The next complete frame without its newline; None when there is none yet. ProtocolError
        in the place of one that was too long."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        if frame is None:
            raise ProtocolError(f"a message of more than {self.limit_bytes} bytes")
        return frame

    def _keep(self, piece: bytes) -> None:
        if self._skipping:
            return
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > self.limit_bytes:
            self._frames.append(None)
            self._forget()
            self._skipping = True

    def _end_frame(self) -> None:
        if not self._skipping:
            self._frames.append(b"".join(self._pieces))
            self._forget()
        self._skipping = False

    def _forget(self) -> None:
        self._pieces, self._size = [], 0


class Channel:
    """Messages both ways over one stream socket. `send` may be called from several threads, reading
    from one.

    `peer`: who is at the other end, as errors name it. `heard_at`: when something was last taken
    off the line (monotonic seconds), whether or not it has been handed out.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        deadlines: Deadlines,
        limit_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self.peer = peer
        self.heard_at = time.monotonic()
        self._sock = sock
        self._sock.settimeout(deadlines.send_s)
        self._deadlines = deadlines
        self._frames = FrameBuffer(limit_bytes)
        self._ready: list[Message] = []
        self._at_end = False
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def local_address(self) -> str:
        """This end's network address: the interface over which the peer is reached."""
        return str(self._sock.getsockname()[0])

    @property
    def peer_address(self) -> str:
        """The other end's network address, as long as it is there; empty afterwards."""
        try:
            return str(self._sock.getpeername()[0])
        except OSError:
            return ""

    def name_peer(self, peer: str) -> None:
        """Who the other end is, as the handshake has shown."""
        self.peer = peer

    def trust(self) -> None:
        """The peer has proved itself: allow frames of full size."""
        self._frames.limit_bytes = MAX_FRAME_BYTES

    def send(self, message: Message) -> None:
        """Send one message. OSError when the peer is gone or does not read (`send_s`)."""
        frame = encode(message)
        with self._lock:
            try:
                self._sock.sendall(frame)
            except TimeoutError as error:
                limit = self._deadlines.words("send_s")
                raise TimeoutError(
                    f"{self.peer} has read nothing for {limit}, so {message.kind} was not sent"
                ) from error

    def drain(self) -> list[Message]:
        """What has come so far, without waiting.

        EOFError at the end of the stream, after its last message. ProtocolError for each malformed
        frame: it is dropped, everything else is kept for the next call.
        """
        for _ in range(_MAX_READS):
            if self._at_end or not self._readable(0.0):
                break
            self._read()
        while (message := self._next_message()) is not None:
            self._ready.append(message)
        if self._at_end and not self._ready:
            raise self._closed()
        messages, self._ready = self._ready, []
        return messages

    def receive(self, timeout_s: float | None, limit: str = "") -> Message:
        """The next message; None: wait for ever. `limit`: the field of `Deadlines` that the timeout
        is, for its error.

        TimeoutError at the deadline, EOFError at the end of the stream, ProtocolError for a
        malformed frame (it is dropped; the next call goes on behind it).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if self._ready:
                return self._ready.pop(0)
            message = self._next_message()
            if message is not None:
                return message
            if self._at_end:
                raise self._closed()
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._readable(left_s):
                words = self._deadlines.words(limit) if limit else f"{timeout_s:g} s"
                raise TimeoutError(f"{self.peer} has sent no message within {words}")
            self._read()

    def receive_or_beat(self) -> Message | bytes:
        """The next message, however long it takes; a heartbeat as it came, for `decode`. Errors as
        of `receive`."""
        while not self._ready:
            frame = self._next_frame()
            if frame is not None:
                return frame if is_beat(frame) else decode(frame, self.peer)
            if self._at_end:
                raise self._closed()
            self._readable(None)
            self._read()
        return self._ready.pop(0)

    def close(self) -> None:
        """Close at once; a reader in another thread wakes with EOFError."""
        with contextlib.suppress(OSError):  # the peer was first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _readable(self, timeout_s: float | None) -> bool:
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _read(self) -> None:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            self._at_end = True
            return
        self.heard_at = time.monotonic()
        self._frames.feed(data)

    def _next_message(self) -> Message | None:
        frame = self._next_frame()
        return None if frame is None else decode(frame, self.peer)

    def _next_frame(self) -> bytes | None:
        try:
            return self._frames.next_frame()
        except ProtocolError as error:
            raise ProtocolError(f"{self.peer}: {error}") from None

    def _closed(self) -> EOFError:
        return EOFError(f"{self.peer} closed the connection")


def proof(token: str, nonce: str, side: str) -> str:
    """What shows that `side` ("client" or "server") knows the token, for one nonce."""
    return hmac.new(token.encode(), f"{side}:{nonce}".encode(), hashlib.sha256).hexdigest()


class UnreachableError(LaunchError):
    """Nobody listens at the controller's address, or no way leads there: its cause says which."""


def connect(
    address: tuple[str, int], token: str, agent: AgentFacts | None, deadlines: Deadlines
) -> Channel:
    """Reach the controller and prove the token. `agent`: what an agent says of itself, None for a
    client. UnreachableError, whose cause is the system's, when nobody is there, LaunchError when it
    is not the run's."""
    # Somebody sits before a client's terminal; an agent's controller may be busy with many others.
    limit = "client_answer_s" if agent is None else "handshake_s"
    end = time.monotonic() + float(getattr(deadlines, limit))
    while True:
        try:
            return _connect_once(address, token, agent, deadlines, limit)
        except LaunchError as error:
            # Who has to go for a stranger finds his connection reset; who is refused, closed.
            is_reset = isinstance(error.__cause__, ConnectionResetError | BrokenPipeError)
            if not is_reset or time.monotonic() > end:
                raise
        time.sleep(deadlines.reset_retry_s)


def _connect_once(
    address: tuple[str, int],
    token: str,
    agent: AgentFacts | None,
    deadlines: Deadlines,
    limit: str,
) -> Channel:
    place = f"controller at {show_address(*address)}"
    timeout_s: float = getattr(deadlines, limit)
    try:
        sock = _dial(address, timeout_s if agent is None else deadlines.agent_connect_s)
    except OSError as error:
        raise UnreachableError(
            f"{place}: cannot be reached: {error}; is the run still alive, and the port open?"
        ) from error
    # Frames of full size from the start: a long message may come right behind the welcome.
    channel = Channel(tuned(sock), "the controller", deadlines)
    nonce = secrets.token_hex(16)
    try:
        challenge = _await(Challenge, channel, timeout_s, limit)
        answer = proof(token, challenge.nonce, "client")
        channel.send(Hello(answer, nonce, agent, time.time()))
        welcome = _await(Welcome, channel, timeout_s, limit)
        check_proof(welcome.proof, proof(token, nonce, "server"))
        _check_number(welcome, agent)
    except (OSError, EOFError, ProtocolError) as error:
        channel.close()
        raise LaunchError(
            f"{place}: refused this connection: {error}; the run may have ended, or be another"
        ) from error
    channel.name_peer(place)
    return channel


def _dial(address: tuple[str, int], timeout_s: float) -> socket.socket:
    """A connection, within so many seconds for each of the host's addresses."""
    problem = OSError("no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout_s)
            # Both ends keep to what the first one says it takes: where the network drops larger
            # packets, it is told over this connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
            sock.connect(place)
        except OSError as error:
            sock.close()
            problem = error
        else:
            return sock
    raise problem


def _await(kind: type[_Kind], channel: Channel, timeout_s: float, limit: str) -> _Kind:
    message = channel.receive(timeout_s, limit)
    if not isinstance(message, kind):
        expected = kind.__name__.lower()
        raise ProtocolError(f"{channel.peer} sent {message.kind} in the place of {expected}")
    return message


def check_proof(given: str, expected: str) -> None:
    """ProtocolError where a proof is not the expected one."""
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise ProtocolError("the token does not match this run's")


def _check_number(welcome: Welcome, agent: AgentFacts | None) -> None:
    """An agent serves no controller that another one has followed."""
    if agent is not None and welcome.fence < agent.fence:
        raise ProtocolError(
            f"it is controller {welcome.fence} of the run, which controller {agent.fence} has "
            "followed"
        )


def tuned(sock: socket.socket) -> socket.socket:
    """The socket, for short messages that are not held back."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock
