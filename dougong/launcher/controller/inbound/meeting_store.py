"""The key-value store where the workers of a generation meet, as a value of the controller: what is
asked of it, and what that answers, to whom. Pure.

A question for keys that are not there is answered when they are. The asker has the deadline.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from dougong.control.worker_messages import StoreReply, StoreRequest

MOST_KEYS = 1 << 20
MOST_BYTES = 1 << 30
"""Of one generation's values together."""

Answer = tuple[str, StoreReply]
"""For whom, and what."""


@dataclass
class MeetingStore:
    """The values of one generation, and the questions that wait for others. `most_bytes`: of keys
    and values together."""

    most_bytes: int = MOST_BYTES
    _values: dict[str, bytes] = field(default_factory=dict)
    _waiting: list[tuple[str, StoreRequest]] = field(default_factory=list)
    _num_bytes: int = 0

    def ask(self, worker: str, request: StoreRequest) -> list[Answer]:
        """What this question answers: itself, as a rule, and others that waited."""
        number, keys = request.number, request.keys
        match request.operation:
            case "set":
                return self._set(worker, request, b64decode(request.value))
            case "add":
                amount = int(self._values.get(keys[0], b"0")) + request.amount
                return self._set(worker, request, str(amount).encode(), amount)
            case "check":
                return [(worker, StoreReply(number, amount=int(self._has(keys))))]
            case "delete":
                gone = self._values.pop(keys[0], None)
                self._num_bytes -= 0 if gone is None else len(keys[0]) + len(gone)
                return [(worker, StoreReply(number, amount=int(gone is not None)))]
            case _:
                return self._when_there(worker, request)

    def _has(self, keys: tuple[str, ...]) -> bool:
        return all(key in self._values for key in keys)

    def _set(
        self, worker: str, request: StoreRequest, value: bytes, amount: int = 0
    ) -> list[Answer]:
        key = request.keys[0]
        before = self._values.get(key)
        more = len(key) + len(value) - (0 if before is None else len(key) + len(before))
        if len(self._values) >= MOST_KEYS or self._num_bytes + more > self.most_bytes:
            error = f"the controller's store is full ({self._num_bytes:,} bytes)"
            return [(worker, StoreReply(request.number, error=error))]
        self._values[key] = value
        self._num_bytes += more
        return [(worker, StoreReply(request.number, amount=amount)), *self._free()]

    def _free(self) -> list[Answer]:
        """Those that wait no more."""
        waiting, self._waiting = self._waiting, []
        freed: list[Answer] = []
        for worker, request in waiting:
            freed += self._when_there(worker, request)
        return freed

    def _when_there(self, worker: str, request: StoreRequest) -> list[Answer]:
        if not self._has(request.keys):
            self._waiting.append((worker, request))
            return []
        value = b64encode(self._values[request.keys[0]]).decode() if request.keys else ""
        if request.operation == "wait":
            value = ""
        return [(worker, StoreReply(request.number, value))]
