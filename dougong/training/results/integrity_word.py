"""What one worker says of its numbers in its report of a step: whether they are what they were, and
two sums that must fit those of the others."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from dougong.ops.bit_sum import WRAP

FORMAT = "BQQ"
"""Of a report, little-endian, without gaps."""
WORD_BYTES = struct.calcsize(f"<{FORMAT}")
_CHANGED, _HAS_SPREAD = 1, 2


@dataclass(frozen=True)
class IntegrityWord:
    """`is_changed`: something that nobody has computed anew is not what it was; `spread`: the sum
    of all dense weights that every worker with lanes computes with (None: it has none); `balance`:
    of its messages, sent less arrived, modulo 2**64."""

    is_changed: bool = False
    spread: int | None = None
    balance: int = 0

    def numbers(self) -> tuple[int, int, int]:
        """As a report has them."""
        bits = _CHANGED * self.is_changed | _HAS_SPREAD * (self.spread is not None)
        return bits, self.spread or 0, self.balance

    @staticmethod
    def of(bits: int, spread: int, balance: int) -> IntegrityWord:
        """What `numbers` gave."""
        return IntegrityWord(bool(bits & _CHANGED), spread if bits & _HAS_SPREAD else None, balance)


NOTHING_CHANGED = IntegrityWord()
"""Of a worker that compares nothing."""


def all_is_well(words: Iterable[IntegrityWord]) -> bool:
    """Whether the words of all workers fit together."""
    words = list(words)
    spread = {word.spread for word in words if word.spread is not None}
    balance = sum(word.balance for word in words) % WRAP
    return not any(word.is_changed for word in words) and len(spread) <= 1 and balance == 0
