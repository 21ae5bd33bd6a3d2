"""Trying the path to another machine, and being there to be tried.

A try is one connection on which messages of fixed lengths take turns, so that no stranger can make
a listener hold more than a few bytes, or for longer than `path_s`:

    listener -> prober   a nonce
    prober -> listener   a nonce of its own, and the proof that it knows the run's token
    listener -> prober   its own proof: with it a small message has passed both ways
    prober -> listener   64 KiB
    listener -> prober   one byte

64 KiB fill packets of any size. Where a switch drops those that the machines take for possible, the
small messages pass and these do not, and nothing else tells of it: TCP sends them again and again.
The first of them is one full packet by itself, which has to arrive before the others leave: of
several at once the system may make one that a virtual switch hands on whole, whatever its size.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import secrets
import socket
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from dougong.addresses import Ports
from dougong.control.channel import proof
from dougong.control.path_messages import Finding, PathEnd, PathResult, TryPaths
from dougong.control.ports import Listener
from dougong.control.server import Strangers
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import LaunchError

LARGE_BYTES = 64 * 1024
MAX_TRIES = 64
"""Tries that one process makes at a time."""
_NONCE_BYTES, _PROOF_BYTES = 32, 64
_LARGE, _DONE = bytes(LARGE_BYTES), b"+"
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)


class StrangerError(LaunchError):
    """The other end does not know the run's token."""


class TimedLine:
    """A connection on which everything happens before `deadline` (monotonic seconds)."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """OSError when the other end is gone; TimeoutError at the deadline; so below."""
        self._sock.settimeout(self._left_s())
        self._sock.sendall(data)

    def send_filling(self, data: bytes) -> None:
        """Send, with the first packet full and no larger than the network is said to take. It has
        arrived before the rest is sent: else the system would repeat it as part of a larger one."""
        packet_bytes = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        self.send(data[:packet_bytes])
        while self._num_unacknowledged():
            time.sleep(min(DEADLINES.acknowledged_every_s, self._left_s()))
        self.send(data[packet_bytes:])

    def _num_unacknowledged(self) -> int:
        """Bytes that the other end's system has not got yet; 0 where ours does not tell."""
        if not sys.platform.startswith("linux"):
            return 0
        told = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(told, sys.byteorder)

    def receive(self, num_bytes: int) -> bytes:
        """So many bytes. EOFError when the other end closes before."""
        data = bytearray()
        while len(data) < num_bytes:
            self._sock.settimeout(self._left_s())
            more = self._sock.recv(num_bytes - len(data))
            if not more:
                raise EOFError("the other end closed the connection")
            data += more
        return bytes(data)

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError("timed out")
        return left_s


class PathListener:
    """Is there to be tried, at `address`, until it is closed. Who has proved nothing yet is one of
    its `Strangers`, for `path_s` at most."""

    def __init__(self, host: str, token: str, ports: Ports | None, deadlines: Deadlines) -> None:
        self._token, self._deadlines = token, deadlines
        self._listener = Listener(host, ports)
        self.address = self._listener.address
        self._strangers = Strangers()
        threading.Thread(target=self._accept, name="dougong-paths", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        while not self._listener.is_closed:
            try:
                sock, peer = self._listener.accept()
                self._begin(sock, str(peer[0]))
            except (OSError, RuntimeError):  # no descriptor or no thread left
                self._listener.pause(self._deadlines.poll_every_s)

    def _begin(self, sock: socket.socket, address: str) -> None:
        gone = self._strangers.admit(sock, address)
        if gone is not None:
            with contextlib.suppress(OSError):  # it has gone by itself
                gone.shutdown(socket.SHUT_RDWR)
        try:
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()
        except RuntimeError:
            self._strangers.release(sock)
            sock.close()  # whoever tries hears of it at once
            raise

    def _serve(self, sock: socket.socket) -> None:
        try:
            # Whoever fails here is a stranger, or says himself what he has met.
            with sock, contextlib.suppress(OSError, EOFError, StrangerError):
                self._answer(sock)
        finally:
            self._strangers.release(sock)

    def _answer(self, sock: socket.socket) -> None:
        line = TimedLine(sock, time.monotonic() + self._deadlines.path_s)
        admit(line, self._token)
        self._strangers.release(sock)
        line.receive(LARGE_BYTES)
        line.send(_DONE)


def try_path(host: str, port: int, token: str, deadlines: Deadlines) -> tuple[Finding, str]:
    """What comes of one try, within `path_s`, and the system's words of a failure."""
    deadline = time.monotonic() + deadlines.path_s
    try:
        sock = socket.create_connection((host, port), deadlines.path_s)
    except OSError as error:
        return _why_no_connection(error), _words(error)
    with sock:
        try:
            line = TimedLine(sock, deadline)
            greet(line, token)
        except StrangerError as error:
            return "stranger", str(error)
        except (OSError, EOFError) as error:
            return ("unanswered" if isinstance(error, TimeoutError) else "broken"), _words(error)
        try:
            line.send_filling(_LARGE)
            line.receive(len(_DONE))
        except (OSError, EOFError) as error:
            return ("too_large" if isinstance(error, TimeoutError) else "broken"), _words(error)
    return "passes", ""


def try_paths(asked: TryPaths, token: str, deadlines: Deadlines) -> tuple[PathResult, ...]:
    """A result for each end; MAX_TRIES at a time."""

    def result_of(end: PathEnd) -> PathResult:
        return PathResult(end.name, end.port, *try_path(end.host, end.port, token, deadlines))

    with ThreadPoolExecutor(MAX_TRIES, "dougong-paths") as threads:
        return tuple(threads.map(result_of, asked.ends))


def admit(line: TimedLine, token: str) -> None:
    """The listener's side of `greet`: have the token proved, and prove it. StrangerError."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    line.send(nonce)
    theirs = line.receive(_NONCE_BYTES)
    _check(line.receive(_PROOF_BYTES), token, nonce, "prober")
    line.send(_proof(token, theirs, "listener"))


def greet(line: TimedLine, token: str) -> None:
    """Prove the token, and have it proved. StrangerError where the other end does not know it."""
    theirs = line.receive(_NONCE_BYTES)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    line.send(nonce + _proof(token, theirs, "prober"))
    _check(line.receive(_PROOF_BYTES), token, nonce, "listener")


def _proof(token: str, nonce: bytes, side: str) -> bytes:
    # Sides of their own: what is proved here is of no use at the controller's port.
    return proof(token, nonce.hex(), f"path-{side}").encode()


def _check(given: bytes, token: str, nonce: bytes, side: str) -> None:
    if not hmac.compare_digest(given, _proof(token, nonce, side)):
        raise StrangerError("it does not know this run's token")


def _why_no_connection(error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        return "silent"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "unreachable" if error.errno in _UNREACHABLE else "broken"


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
