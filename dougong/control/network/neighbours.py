"""Machines that hear each other: each sends a short message to the others some times a second.

They go by UDP and are not answered, so each tells of one direction alone, and nobody waits for
anybody. A machine that has never been heard is not missed: where UDP does not pass, nothing is said
of it. What a machine does not hear it says in its own messages, so that others know it even when
its connection to the controller is stuck.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from dougong.control.path_messages import Hearing, PathEnd
from dougong.deadlines import DEADLINES

_LONGEST_S = 2 * DEADLINES.neighbour_every_s
"""Who was held up himself has not listened: more than this is not counted at a time."""
_MOST_PEERS = 16
_MOST_AT_ONCE = 1024
_MAC_BYTES = 32
_MOST_BYTES = 8192


def takes_connections(end: PathEnd) -> bool:
    """Whether a machine answers at all: its kernel does, also for a process that is stopped, and by
    a refusal for one that is gone."""
    try:
        socket.create_connection((end.host, end.port), DEADLINES.neighbour_lost_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


@dataclass
class _Peer:
    address: tuple[str, int]
    number: int = 0
    silent_s: float = 0.0
    lost: tuple[str, ...] = ()


class Neighbours:
    """This machine's mouth and ears, until it is closed. `name`: as in `PathEnd`; `address`: where
    others try the paths to it by TCP, here for UDP. Where that cannot be had it is deaf and
    dumb."""

    def __init__(self, name: str, address: tuple[str, int], token: str) -> None:
        self._name, self._place, self._key = name, address, token.encode()
        self._lock = threading.Lock()
        self._peers: dict[str, _Peer] = {}
        self._is_closed = threading.Event()
        # A later life of this name, on this machine, counts on from beyond an earlier one.
        self._number = int(1000 * time.monotonic())
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            return
        threading.Thread(target=self._run, name="dougong-neighbours", daemon=True).start()

    def know(self, ends: Iterable[PathEnd]) -> None:
        """These are there from now on; one that was known by that name has another place now."""
        with self._lock:
            for end in ends:
                self._peers[end.name] = _Peer((end.host, end.port))
            # Of many, those that follow this one in a circle of names: each is heard by as many.
            names = sorted(self._peers, key=lambda name: (name < self._name, name))
            for name in names[_MOST_PEERS:]:
                del self._peers[name]

    @property
    def hearing(self) -> Hearing:
        """What is heard at present."""
        with self._lock:
            lost = {name: round(peer.silent_s, 1) for name, peer in self._lost().items()}
            heard = {}
            for name, peer in self._peers.items():
                if peer.number and name not in lost:
                    heard[name] = peer.lost
        told = {name: theirs for name, theirs in heard.items() if theirs}
        return Hearing(tuple(heard), lost, told)

    def close(self) -> None:
        """Say and hear nothing more."""
        self._is_closed.set()

    def _lost(self) -> dict[str, _Peer]:
        peers = self._peers.items()
        return {
            name: peer
            for name, peer in peers
            if peer.number and peer.silent_s > DEADLINES.neighbour_lost_s
        }

    def _run(self) -> None:
        looked_at = time.monotonic()
        with self._socket:
            while not self._is_closed.wait(DEADLINES.neighbour_every_s):
                now = time.monotonic()
                self._take_turn(min(now - looked_at, _LONGEST_S))
                looked_at = now

    def _take_turn(self, passed_s: float) -> None:
        with self._lock:
            for peer in self._peers.values():
                peer.silent_s += passed_s
            # After that: what has come while this machine was held up counts.
            self._listen()
            self._speak()

    def _listen(self) -> None:
        for _ in range(
            _MOST_AT_ONCE
        ):  # whoever floods the port does not keep this one from speaking
            try:
                data = self._socket.recv(_MOST_BYTES)
            except OSError:  # nothing more; or an answer of a machine that nobody listens there
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)):
            return  # a stranger's
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(body)
            peer = self._peers.get(said["name"])
            if peer is None or tuple(said["place"]) != peer.address:
                return  # of one who had the name before, and is back from where nobody heard it
            # A number that has been heard may have been kept by somebody, and sent again.
            if said["number"] > peer.number:
                peer.number, peer.silent_s = said["number"], 0.0
                peer.lost = tuple(map(str, said["lost"]))

    def _speak(self) -> None:
        self._number += 1
        said = {
            "name": self._name,
            "place": self._place,
            "number": self._number,
            "lost": sorted(self._lost()),
        }
        body = json.dumps(said).encode()
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # no way there: its silence says so
                self._socket.sendto(self._mac(body) + body, peer.address)

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, b"neighbour:" + body, hashlib.sha256).digest()
