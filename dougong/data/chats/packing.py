"""Chats into sequences of one length. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dougong.data.chats.template import Encoded, KeptImage

TARGET, BEGINS, PADDING = 1, 2, 4
"""Flags of a token: it is learnt; a document begins with it; it only fills the sequence up."""
_MOST_OPEN = 64
"""Sequences that still have room for another chat."""


@dataclass(frozen=True)
class Sequence:
    """`ids`: int64 [length]; `flags`: uint8 [length], of TARGET and BEGINS; `images`: of its chats,
    in order."""

    ids: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    images: tuple[KeptImage, ...] = ()

    @property
    def num_targets(self) -> int:
        return int((self.flags & TARGET).astype(bool).sum())


@dataclass
class _Open:
    """A sequence that is being filled."""

    chats: list[Encoded] = field(default_factory=list)
    size: int = 0

    def add(self, chat: Encoded) -> None:
        self.chats.append(chat)
        self.size += chat.ids.size

    def closed(self, length: int, padding: int) -> Sequence:
        ids = np.full(length, padding, dtype=np.int64)
        flags = np.zeros(length, dtype=np.uint8)
        place = 0
        for chat in self.chats:
            end = place + chat.ids.size
            ids[place:end] = chat.ids
            flags[place:end] = chat.is_target * np.uint8(TARGET)
            # The first of a chat is not foretold by the one before it.
            flags[place] = BEGINS
            place = end
        flags[place:] = PADDING
        flags[place : place + 1] |= BEGINS
        images = itertools.chain.from_iterable(chat.images for chat in self.chats)
        return Sequence(ids, flags, tuple(one.image for one in images))


def sequences(
    chats: Iterable[Encoded], length: int, padding: int, is_packed: bool
) -> Iterator[Sequence]:
    """Sequences of `length` ids: each chat in one of its own, or several in one (first fit), none
    cut. Chats are no longer than that. The rest is `padding`. The order is that of the chats."""
    opened: list[_Open] = []
    for chat in chats:
        assert 0 < chat.ids.size <= length
        fitting = (one for one in opened if one.size + chat.ids.size <= length)
        place = next(fitting, None)
        if place is None:
            place = _Open()
            opened.append(place)
        place.add(chat)
        if not is_packed or len(opened) > _MOST_OPEN:
            yield opened.pop(0).closed(length, padding)
    for one in opened:
        yield one.closed(length, padding)
