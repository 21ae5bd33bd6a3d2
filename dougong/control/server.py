"""The controller's door: connections come in, prove the run's token, and are handed on.

What has proved nothing yet is served by one thread, and costs a file descriptor and a few bytes
each; how many there are, and what is said of those that were turned away, is bounded, whoever
knocks and however often.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dougong.addresses import Ports
from dougong.control.channel import MAX_HELLO_BYTES, Channel, check_proof, proof, tuned
from dougong.control.handshake import Challenge, Hello, Welcome
from dougong.control.messages import Message, ProtocolError
from dougong.control.ports import Listener
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError

MOST = 256
"""Unproven connections that one listener keeps at a time."""
MOST_OF_ONE = 128
"""The same of one address. Agents of one machine come at once: far fewer."""
MOST_ADDRESSES = 32
"""Addresses of whose refusals something is said; an IPv6 network has any number of them."""
_OTHERS = "other addresses"
_THIS_END = "this machine"
_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: what is closed is reset


class Server:
    """Listens for agents and clients. `on_peer(hello, channel)` runs in the peer's own thread,
    after the handshake.

    `on_refused(text)` is called for connections that were turned away, as `Refusals` lets it:
    hardly ever. Unproven ones are kept as in `Strangers`, each for `handshake_s` at most. `fence`:
    the number of the controller that listens, which it says of itself; set before anybody knows its
    address.
    """

    def __init__(
        self,
        host: str,
        token: str,
        on_peer: Callable[[Hello, Channel], None],
        on_refused: Callable[[str], None],
        deadlines: Deadlines,
        ports: Ports | None = None,
    ) -> None:
        """`ports`: to listen on one of these, None: on one that the system chooses."""
        self._token, self._on_peer, self._on_refused = token, on_peer, on_refused
        self._deadlines = deadlines
        self._listener = Listener(host, ports)
        self.address = self._listener.address
        self.fence = 0
        self._strangers, self._refusals = Strangers(), Refusals()
        self._callers: dict[socket.socket, _Caller] = {}  # in the order in which they came
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)  # may be closed at once
        threading.Thread(target=self._run, name="dougong-accept", daemon=True).start()

    def close(self) -> None:
        """Stop listening. Channels that were handed out stay open; they belong to who got them."""
        self._listener.close()

    def _run(self) -> None:
        with self._selector:
            while not self._listener.is_closed:
                self._take_turn()
        for caller in self._callers.values():
            caller.channel.close()

    def _take_turn(self) -> None:
        for key, _ in self._selector.select(self._deadlines.poll_every_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data in self._callers:
                self._hear(self._callers[key.data])
        now = time.monotonic()
        while self._callers:
            oldest = next(iter(self._callers.values()))
            if now < oldest.until:
                return
            limit = self._deadlines.words("handshake_s")
            self._turn_away(oldest, f"it has proved nothing within {limit}")

    def _accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except OSError as error:
            if not self._listener.is_closed:
                self._refuse(_THIS_END, f"cannot accept a connection: {error}")
                # No file descriptor left: do not spin.
                self._listener.pause(self._deadlines.poll_every_s)
            return
        self._admit(sock, str(peer[0]))

    def _admit(self, sock: socket.socket, address: str) -> None:
        gone = self._strangers.admit(sock, address)
        if gone is not None:
            caller = self._callers[gone]
            self._forget(caller)
            # Reset: one of ours that had to go comes again (`channel.connect`).
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            gone.close()
            self._refuse(caller.address, "too many unproven connections at once")
        channel = Channel(tuned(sock), "the peer", self._deadlines, MAX_HELLO_BYTES)
        until = time.monotonic() + self._deadlines.handshake_s
        caller = _Caller(sock, address, channel, secrets.token_hex(16), until)
        self._callers[sock] = caller
        self._selector.register(sock, selectors.EVENT_READ, sock)
        try:
            channel.send(Challenge(caller.nonce))
        except OSError as error:  # it has gone already
            self._turn_away(caller, str(error))

    def _hear(self, caller: _Caller) -> None:
        """What a stranger says, without waiting for the rest of it."""
        try:
            messages = caller.channel.drain()
            if not messages:
                return
            hello = _proved(messages, caller.nonce, self._token)
            self._forget(caller)
            caller.channel.trust()
            caller.channel.send(Welcome(proof(self._token, hello.nonce, "server"), self.fence))
            threading.Thread(target=self._hand_on, args=(caller, hello), daemon=True).start()
        except (OSError, EOFError, LaunchError, RuntimeError) as error:  # the last: no thread left
            self._turn_away(caller, str(error))

    def _hand_on(self, caller: _Caller, hello: Hello) -> None:
        role = "client" if hello.agent is None else f"agent {hello.agent.agent}"
        caller.channel.name_peer(f"{role} at {caller.address}")
        self._on_peer(hello, caller.channel)

    def _turn_away(self, caller: _Caller, why: str) -> None:
        self._forget(caller)
        caller.channel.close()
        self._refuse(caller.address, f"refused a connection: {why}")

    def _forget(self, caller: _Caller) -> None:
        self._strangers.release(caller.sock)
        if self._callers.pop(caller.sock, None) is not None:
            self._selector.unregister(caller.sock)

    def _refuse(self, address: str, text: str) -> None:
        told = self._refusals.words(address, text)
        if told:
            self._on_refused(told)


@dataclass(frozen=True)
class _Caller:
    """Somebody who has been sent `nonce` and has proved nothing yet. `until`: monotonic seconds."""

    sock: socket.socket
    address: str
    channel: Channel
    nonce: str
    until: float


def _proved(messages: list[Message], nonce: str, token: str) -> Hello:
    """The proof, and nothing behind it: whoever speaks before the welcome is none of ours."""
    hello, *more = messages
    if not isinstance(hello, Hello):
        raise ProtocolError(f"the peer sent {hello.kind} in the place of hello")
    check_proof(hello.proof, proof(token, nonce, "client"))
    if more:
        raise ProtocolError(f"the peer sent {more[0].kind} before the welcome")
    return hello


class Strangers:
    """Connections that have proved nothing yet. So many are kept, and none keeps another one out:
    where an address has too many its oldest goes, where there are too many in all, the oldest of
    the address that has the most. A peer of ours is one for an instant, and as a rule the only one
    of its address."""

    def __init__(self, most: int = MOST, most_of_one: int = MOST_OF_ONE) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._lock = threading.Lock()
        self._known: dict[socket.socket, str] = {}  # in the order in which they came
        self._counts = Counter[str]()

    def admit(self, sock: socket.socket, address: str) -> socket.socket | None:
        """Take it in. The one that has to go for it, for the caller to end; None: none."""
        with self._lock:
            self._known[sock] = address
            self._counts[address] += 1
            if self._counts[address] > self._most_of_one:
                busiest = address
            elif len(self._known) > self._most:
                busiest, _ = self._counts.most_common(1)[0]
            else:
                return None
            oldest = next(sock for sock, known in self._known.items() if known == busiest)
            self._forget(oldest)
            return oldest

    def release(self, sock: socket.socket) -> None:
        """It is no stranger any more, or gone."""
        with self._lock:
            if sock in self._known:
                self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        address = self._known.pop(sock)
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]


class Refusals:
    """Whoever scans the network may knock for ever: of each address the first refusal is told, then
    at each power of ten how many there were. Addresses beyond MOST_ADDRESSES are told as one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()

    def words(self, address: str, text: str) -> str:
        """What is told of one more refusal, `text`; empty: nothing."""
        with self._lock:
            is_known = address in self._counts or len(self._counts) < MOST_ADDRESSES
            who = address if is_known else _OTHERS
            self._counts[who] += 1
            count = self._counts[who]
        if count == 1:
            return f"{who}: {text}"
        if str(count).strip("0") == "1":
            return f"{who}: {count:,} refused so far; the last: {text}"
        return ""
