"""What agents, clients and the controller say to each other: one JSON object a line over TCP.

A connection begins with a proof on both sides that the run's token is known (HMAC over a fresh
nonce, so the token itself never travels); whatever is foreign or malformed is refused and reported,
and never ends the listener. Every message carries `kind` and `generation`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from dougong.errors import LaunchError

Message = dict[str, Any]

HANDSHAKE_S = 10.0
SEND_S = 20.0
MAX_HELLO_BYTES = 64 * 1024
MAX_FRAME_BYTES = 256 * 1024 * 1024
_MAX_STRANGERS = 32
_MAX_READS = 64


class ProtocolError(LaunchError):
    """The peer sent something that is not a message of this protocol, or could not prove that it
    belongs here."""


class FrameBuffer:
    """Cuts a byte stream into messages. Pure; raises ProtocolError at the first line that is not a
    message."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes as they come; return the messages that are complete now."""
        *whole, rest = data.split(b"\n")
        messages = [self._complete(line) for line in whole]
        self._keep(rest)
        return messages

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.limit_bytes:
            raise ProtocolError(
                f"a frame of more than {self.limit_bytes} bytes; the peer does not speak this protocol"
            )
        self._pieces.append(piece)

    def _complete(self, line: bytes) -> Message:
        self._keep(line)
        frame, self._pieces, self._size = b"".join(self._pieces), [], 0
        return decode(frame)


def encode(kind: str, generation: int, fields: dict[str, Any]) -> bytes:
    """One frame, newline included."""
    text = json.dumps({**fields, "kind": kind, "generation": generation}, separators=(",", ":"))
    return text.encode() + b"\n"


def decode(frame: bytes) -> Message:
    """The message in one line. ProtocolError unless it is an object with a `kind` and a
    `generation`."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a message: {frame[:60]!r} ({type(error).__name__})") from error
    if not (isinstance(message, dict) and isinstance(message.get("kind"), str)):
        raise ProtocolError(f"not a message: {frame[:60]!r} has no kind")
    if not isinstance(message.get("generation"), int) or isinstance(message["generation"], bool):
        raise ProtocolError(f"not a message: {frame[:60]!r} has no generation")
    return message


class Channel:
    """Messages both ways over one stream socket. `send` may be called from several threads, reading
    from one.

    `heard_at`: when `receive` last took something off the line (monotonic seconds), whether or not
    it is read by now.
    """

    def __init__(self, sock: socket.socket, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._sock = sock
        self._sock.settimeout(SEND_S)
        self._frames = FrameBuffer(limit_bytes)
        self._ready: list[Message] = []
        self.heard_at = time.monotonic()
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

    def trust(self) -> None:
        """The peer has proved itself: allow frames of full size."""
        self._frames.limit_bytes = MAX_FRAME_BYTES

    def send(self, kind: str, generation: int = 0, **fields: Any) -> None:
        """Send one message. OSError when the peer is gone or has not read for SEND_S seconds."""
        frame = encode(kind, generation, fields)
        with self._lock:
            self._sock.sendall(frame)

    def drain(self) -> list[Message]:
        """What has come so far, without waiting. EOFError at the end of the stream, after its last
        message."""
        messages, self._ready = self._ready, []
        for _ in range(_MAX_READS):
            if not self._readable(0.0):
                break
            data = self._sock.recv(1 << 18)
            if not data and messages:
                break  # the next call raises
            if not data:
                raise EOFError("the peer closed the connection")
            messages += self._frames.feed(data)
        return messages

    def receive(self, timeout_s: float | None) -> Message:
        """The next message. TimeoutError at the deadline (None: wait for ever), EOFError at the end
        of the stream."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ready:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._readable(left):
                raise TimeoutError(f"no message within {timeout_s} s")
            data = self._sock.recv(1 << 18)
            if not data:
                raise EOFError("the peer closed the connection")
            self.heard_at = time.monotonic()
            self._ready += self._frames.feed(data)
        return self._ready.pop(0)

    def close(self) -> None:
        """Close at once; a reader in another thread wakes with EOFError."""
        with contextlib.suppress(OSError):  # the peer was first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _readable(self, timeout_s: float | None) -> bool:
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1000))


def proof(token: str, nonce: str, side: str) -> str:
    """What shows that `side` ("client" or "server") knows the token, for one nonce."""
    return hmac.new(token.encode(), f"{side}:{nonce}".encode(), hashlib.sha256).hexdigest()


def connect(
    address: tuple[str, int], token: str, hello: dict[str, Any], timeout_s: float = HANDSHAKE_S
) -> Channel:
    """Reach the controller and prove the token; `hello` says who calls (`role`, ...). LaunchError
    when it can't be."""
    place = f"controller at {address[0]}:{address[1]}"
    try:
        sock = socket.create_connection(address, timeout=timeout_s)
    except OSError as error:
        raise LaunchError(
            f"{place}: cannot be reached: {error}; is the run still alive, and the port open?"
        ) from error
    channel = Channel(_tuned(sock), MAX_HELLO_BYTES)
    try:
        nonce = secrets.token_hex(16)
        challenge = channel.receive(timeout_s)
        answer = proof(token, str(challenge.get("nonce")), "client")
        channel.send("hello", **{**hello, "proof": answer, "nonce": nonce})
        welcome = channel.receive(timeout_s)
        _check(welcome.get("proof"), proof(token, nonce, "server"))
    except (OSError, EOFError, ProtocolError) as error:
        channel.close()
        raise LaunchError(
            f"{place}: refused this connection: {error}; the run may have ended, or be another"
        ) from error
    channel.trust()
    return channel


class Server:
    """The controller's ear. `on_peer(hello, channel)` runs in the peer's own thread, after the
    handshake.

    `on_refused(text)` is told of every connection that was turned away. At most `_MAX_STRANGERS`
    unproven connections are kept at a time, each for HANDSHAKE_S at most.
    """

    def __init__(
        self,
        host: str,
        token: str,
        on_peer: Callable[[Message, Channel], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self._token, self._on_peer, self._on_refused = token, on_peer, on_refused
        self._listener = socket.create_server((host, 0), backlog=128)
        self.address: tuple[str, int] = (host, self._listener.getsockname()[1])
        self._strangers = threading.BoundedSemaphore(_MAX_STRANGERS)
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="dougong-accept", daemon=True).start()

    def close(self) -> None:
        """Stop listening. Channels that were handed out stay open; they belong to who got them."""
        self._closed.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        finally:
            self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, peer = self._listener.accept()
            except OSError as error:
                if not self._closed.is_set():
                    self._on_refused(f"cannot accept a connection: {error}")
                    time.sleep(0.1)  # out of file descriptors: do not spin
                continue
            if not self._strangers.acquire(blocking=False):
                sock.close()
                self._on_refused(f"{peer[0]}: too many unproven connections at once")
                continue
            threading.Thread(target=self._greet, args=(sock, str(peer[0])), daemon=True).start()

    def _greet(self, sock: socket.socket, peer: str) -> None:
        channel = Channel(_tuned(sock), MAX_HELLO_BYTES)
        try:
            hello = self._handshake(channel)
        except (OSError, EOFError, LaunchError) as error:
            channel.close()
            self._on_refused(f"{peer}: refused a connection: {error}")
            return
        finally:
            self._strangers.release()
        self._on_peer(hello, channel)

    def _handshake(self, channel: Channel) -> Message:
        nonce = secrets.token_hex(16)
        channel.send("challenge", nonce=nonce)
        hello = channel.receive(HANDSHAKE_S)
        if hello["kind"] != "hello":
            raise ProtocolError(f"a peer that says {hello['kind']!r} before hello")
        _check(hello.pop("proof", None), proof(self._token, nonce, "client"))
        channel.trust()
        channel.send("welcome", proof=proof(self._token, str(hello.pop("nonce", "")), "server"))
        return hello


def _check(given: object, expected: str) -> None:
    if not (isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())):
        raise ProtocolError("the token does not match this run's")


def _tuned(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return sock
