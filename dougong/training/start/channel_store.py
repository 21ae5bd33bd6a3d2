"""The store where a generation's workers meet, as torch knows stores, over the worker's own line.

The values lie in the controller and are gone with their generation. Nobody listens for this: what
is asked goes through the worker's agent, whose connection has proved itself.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

from dougong.control.worker_messages import StoreReply, StoreRequest
from dougong.deadlines import Deadlines

Ask = Callable[[Callable[[int], StoreRequest], float, str], StoreReply]
"""Sends the question that is made of a number; its answer, within so many seconds, which a field of
`Deadlines` has set. As `WorkerLine.ask`."""
_Operation = Literal["set", "get", "add", "check", "delete", "wait"]


class ChannelStore(Store):
    """A key-value store of one generation. Any thread may use it, also those of a library.

    Every method raises DistStoreError where the controller refuses or a key does not come in time,
    PeerError when the generation is to be left meanwhile, EOFError when the agent is gone.
    """

    def __init__(self, ask: Ask, deadlines: Deadlines) -> None:
        super().__init__()
        self._ask = ask
        self._deadlines = deadlines

    def set(self, key: str, value: str | bytes) -> None:
        self._call("set", (key,), value)

    def get(self, key: str) -> bytes:
        """The value, as soon as somebody has set it."""
        return b64decode(self._call("get", (key,)).value)

    def add(self, key: str, amount: int) -> int:
        return self._call("add", (key,), amount=amount).amount

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._call("check", tuple(keys)).amount)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Until all keys are there."""
        self._call("wait", tuple(keys), patience=timeout)

    def delete_key(self, key: str) -> bool:
        return bool(self._call("delete", (key,)).amount)

    def has_extended_api(self) -> bool:
        return False

    def clone(self) -> ChannelStore:
        return self

    def _call(
        self,
        operation: _Operation,
        keys: tuple[str, ...],
        value: str | bytes = b"",
        amount: int = 0,
        patience: timedelta | None = None,
    ) -> StoreReply:
        data = value.encode() if isinstance(value, str) else bytes(value)
        text = b64encode(data).decode()
        limit = "rendezvous_s" if patience is None else ""
        limit_s = self._deadlines.rendezvous_s if patience is None else patience.total_seconds()
        try:
            reply = self._ask(
                lambda number: StoreRequest(number, operation, keys, text, amount), limit_s, limit
            )
        except TimeoutError as error:
            waited = self._deadlines.words(limit) if limit else f"{limit_s:g} s"
            raise dist.DistStoreError(f"{', '.join(keys)}: not there after {waited}") from error
        if reply.error:
            raise dist.DistStoreError(f"{', '.join(keys)}: {reply.error}")
        return reply
