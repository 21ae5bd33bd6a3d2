"""Stores where the workers of a test meet, without a controller."""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist
from dougong.control.worker_messages import StoreReply, StoreRequest
from dougong.launcher.controller.inbound.meeting_store import MeetingStore


def store_at(port: int, generation: int = 1) -> dist.Store:
    """A generation's part of the store that the test has at this port."""
    return dist.PrefixStore(f"generation-{generation}", dist.TCPStore("127.0.0.1", port, is_master=False))


def asker_of(port: int, generation: int = 1) -> Callable[..., StoreReply]:
    """`Control.ask` over that store."""
    store = store_at(port, generation)

    def ask(question: Callable[[int], StoreRequest], timeout_s: float, limit: str = "") -> StoreReply:
        request = question(1)
        keys, patience = list(request.keys), timedelta(seconds=timeout_s)
        match request.operation:
            case "set":
                store.set(keys[0], b64decode(request.value))
            case "get":
                store.wait(keys, patience)
                return StoreReply(1, b64encode(store.get(keys[0])).decode())
            case "add":
                return StoreReply(1, amount=store.add(keys[0], request.amount))
            case "check":
                return StoreReply(1, amount=int(store.check(keys)))
            case "delete":
                return StoreReply(1, amount=int(store.delete_key(keys[0])))
            case _:
                store.wait(keys, patience)
        return StoreReply(1)

    return ask


class HandStore:
    """A controller's store in this process; each of several threads asks as a worker of its own."""

    def __init__(self) -> None:
        self.store = MeetingStore()
        self._changed = threading.Condition()
        self._replies: dict[tuple[str, int], StoreReply] = {}
        self._numbers = iter(range(1, 1 << 30))

    def asker(self, worker: str) -> Callable[..., StoreReply]:
        def ask(question: Callable[[int], StoreRequest], timeout_s: float, limit: str = "") -> StoreReply:
            with self._changed:
                number = next(self._numbers)
                for name, reply in self.store.ask(worker, question(number)):
                    self._replies[name, reply.number] = reply
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: (worker, number) in self._replies, timeout_s):
                    raise TimeoutError(f"no answer within {timeout_s} s")
                return self._replies.pop((worker, number))

        return ask
