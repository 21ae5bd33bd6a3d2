"""What one worker has sent in a step, and what has arrived: sums of raw bits, by which the workers
find together that something has changed on its way.

Of all workers together, what was sent less what has arrived is nothing. So one number a worker is
enough to see that all is well, and the rest is told where it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.ops.bit_sum import WRAP


@dataclass(frozen=True)
class _Noted:
    """`sums`: int64, one for each of `peers`, on any device."""

    what: str
    peers: Sequence[int]
    sums: Tensor
    is_sent: bool


Seen = tuple[str, int, bool]
"""What it was, in words; the other end's rank; whether it was sent there, or came from there."""


class MessageTally:
    """One worker's, of the step that is computed. Off until somebody turns it on: it costs a look
    at every byte. Called by the thread that computes, but for notes of what another one moves,
    which has come to its end before anything is asked."""

    def __init__(self) -> None:
        self.is_on = False
        self._entries: list[_Noted] = []

    def begin(self) -> None:
        """A step begins, or begins again."""
        self._entries = []

    def note(self, what: str, peers: Sequence[int], sums: Tensor, *, is_sent: bool) -> None:
        """Sums of the bits that go to each peer, or have come from each: as they were computed, and
        as they are going to be used."""
        if len(peers):
            self._entries.append(_Noted(what, peers, sums, is_sent))

    def balance(self) -> int:
        """Sent less arrived, modulo 2**64. Waits for the device once."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for entry in self._entries:
            signed = entry.sums if entry.is_sent else -entry.sums
            by_device.setdefault(signed.device, []).append(signed)
        totals = [sum(torch.cat(sums).tolist()) for sums in by_device.values()]
        return sum(totals) % WRAP

    def by_message(self) -> dict[Seen, int]:
        """Everything, one by one; what has the same name is added."""
        found = Counter[Seen]()
        for entry in self._entries:
            for peer, value in zip(entry.peers, entry.sums.tolist(), strict=True):
                found[entry.what, peer, entry.is_sent] += value
        return {seen: value % WRAP for seen, value in found.items()}


@dataclass(frozen=True)
class ChangedMessage:
    """What was sent is not what has arrived."""

    what: str
    sender: int
    receiver: int


def changed_message(tallies: Sequence[Mapping[Seen, int]]) -> ChangedMessage | None:
    """The first message, in the order in which it was noted, that has changed on its way. `tallies`
    by rank."""
    arrived: dict[tuple[str, int, int], int] = {}
    for receiver, tally in enumerate(tallies):
        for (what, sender, is_sent), value in tally.items():
            if not is_sent:
                arrived[what, sender, receiver] = value
    for sender, tally in enumerate(tallies):
        for (what, receiver, is_sent), value in tally.items():
            if is_sent and arrived.get((what, sender, receiver), 0) != value:
                return ChangedMessage(what, sender, receiver)
    return None
