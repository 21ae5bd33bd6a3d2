"""Many bytes from one machine to another and back, over one connection as gloo has between two
workers: what a link gives.

    prober -> listener   who it is, as in `control/network/path_probe.py`
    prober -> listener   a word: take, or give, so many bytes
    listener -> prober   those that it gives; one byte, when those that it takes are there
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

from dougong.addresses import Ports
from dougong.control.network.path_probe import StrangerError, TimedLine, admit, greet
from dougong.control.ports import Listener
from dougong.deadlines import DEADLINES, Deadlines
from dougong.doctor.facts import LinkAnswer, LinkQuestion

SMALL_BYTES, MOST_BYTES = 256 << 10, 64 << 20
_GROWS = 4
_TAKE, _GIVE = b"<", b">"
_WORD = struct.Struct("!cQ")
_BLOCK = bytes(1 << 20)
_DONE = b"+"
_ROUND_TRIPS = 5

_Move = Callable[[TimedLine, int], float]


class BulkListener:
    """Takes and gives bytes until it is closed, for one prober after the other, each `link_s`
    long."""

    def __init__(self, host: str, token: str, ports: Ports | None, deadlines: Deadlines) -> None:
        """As `Listener`."""
        self._token, self._deadlines = token, deadlines
        self._listener = Listener(host, ports)
        self.port = self._listener.address[1]
        threading.Thread(target=self._accept, name="dougong-bulk", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        while not self._listener.is_closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed, or no descriptor left
                self._listener.pause(self._deadlines.poll_every_s)
                continue
            # Whoever fails here is a stranger, or says himself what he has met.
            with sock, contextlib.suppress(OSError, EOFError, StrangerError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._serve(TimedLine(sock, time.monotonic() + self._deadlines.link_s))

    def _serve(self, line: TimedLine) -> None:
        admit(line, self._token)
        while True:
            kind, num_bytes = _WORD.unpack(line.receive(_WORD.size))
            if num_bytes > MOST_BYTES:
                return
            if kind == _GIVE:
                _send(line, num_bytes)
            else:
                _receive(line, num_bytes)
                line.send(_DONE)


def measure_link(question: LinkQuestion) -> LinkAnswer:
    """Both directions and the latency of the link to a listener, within `link_s`."""
    limit_s = question.deadlines.link_s
    deadline = time.monotonic() + limit_s
    try:
        with socket.create_connection((question.host, question.port), limit_s) as sock:
            line = TimedLine(sock, deadline)
            greet(line, question.token)
            latency_s = min(_take(line, 0) for _ in range(_ROUND_TRIPS)) / 2
            out = _rate(line, latency_s, _take)
            back = _rate(line, latency_s, _give)
            return LinkAnswer(latency_s, out, back)
    except TimeoutError:
        return LinkAnswer(problem=f"too little came through within {limit_s:g} s")
    except (OSError, EOFError, StrangerError) as error:
        return LinkAnswer(problem=str(error) or type(error).__name__)


def _rate(line: TimedLine, latency_s: float, move: _Move) -> float:
    """Bytes a second of the first message that is large enough to tell: what a switch or a limit
    lets pass at once is no measure."""
    num_bytes = SMALL_BYTES
    move(line, num_bytes)  # what is made once, is made: buffers, the window of the connection
    while True:
        seconds = move(line, num_bytes) - latency_s
        if seconds > DEADLINES.doctor_message_s or num_bytes >= MOST_BYTES:
            return num_bytes / max(seconds, latency_s, 1e-9)
        num_bytes *= _GROWS


def _take(line: TimedLine, num_bytes: int) -> float:
    """Seconds until the other end has so many bytes, and has said so."""
    begun = time.perf_counter()
    line.send(_WORD.pack(_TAKE, num_bytes))
    _send(line, num_bytes)
    line.receive(len(_DONE))
    return time.perf_counter() - begun


def _give(line: TimedLine, num_bytes: int) -> float:
    """Seconds until so many bytes of the other end are here."""
    begun = time.perf_counter()
    line.send(_WORD.pack(_GIVE, num_bytes))
    _receive(line, num_bytes)
    return time.perf_counter() - begun


def _send(line: TimedLine, num_bytes: int) -> None:
    for start in range(0, num_bytes, len(_BLOCK)):
        line.send(_BLOCK[: num_bytes - start])


def _receive(line: TimedLine, num_bytes: int) -> None:
    for start in range(0, num_bytes, len(_BLOCK)):
        line.receive(min(len(_BLOCK), num_bytes - start))
