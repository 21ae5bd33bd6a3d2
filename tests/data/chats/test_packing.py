"""Chats into sequences of one length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dougong.data.chats.packing import BEGINS, PADDING, TARGET, sequences
from dougong.data.chats.parts import ImageName
from dougong.data.chats.template import Encoded, KeptImage, PlacedImage


def encoded(size: int, first: int) -> Encoded:
    ids = np.arange(first, first + size)
    return Encoded(ids, ids % 2 == 1)


CHATS = [encoded(size, 10 * number) for number, size in enumerate((5, 3, 6, 2, 8), 1)]


def test_each_chat_has_a_sequence_and_the_rest_is_padding() -> None:
    found = list(sequences(CHATS, 8, 99, is_packed=False))
    assert [one.ids.tolist()[:2] for one in found] == [[10, 11], [20, 21], [30, 31], [40, 41], [50, 51]]
    assert found[0].ids.tolist() == [10, 11, 12, 13, 14, 99, 99, 99]
    assert found[0].flags.tolist() == [BEGINS, TARGET, 0, TARGET, 0, BEGINS | PADDING, PADDING, PADDING]
    assert found[0].num_targets == 2


def test_several_lie_in_one_by_first_fit_and_none_is_cut() -> None:
    found = list(sequences(CHATS, 8, 99, is_packed=True))
    assert [one.ids.tolist() for one in found] == [
        [10, 11, 12, 13, 14, 20, 21, 22], [30, 31, 32, 33, 34, 35, 40, 41], [50, 51, 52, 53, 54, 55, 56, 57],
    ]  # fmt: skip
    assert [np.flatnonzero(one.flags & BEGINS).tolist() for one in found] == [[0, 5], [0, 6], [0]]
    assert sum(one.num_targets for one in found) == sum(int(chat.is_target.sum()) for chat in CHATS)


def test_the_first_of_a_chat_is_never_learnt() -> None:
    odd = Encoded(np.array([1, 3]), np.array([True, True]))
    (one,) = sequences([odd, odd], 4, 0, is_packed=True)
    assert one.flags.tolist() == [BEGINS, TARGET, BEGINS, TARGET]


def test_few_sequences_stay_open() -> None:
    chats = [encoded(5, 0)] * 200 + [encoded(3, 100)]
    found = list(sequences(chats, 8, 99, is_packed=True))
    assert len(found) == 200 and found[-64].ids.tolist()[5:] == [100, 101, 102]


def image(begin: int, end: int) -> PlacedImage:
    name = ImageName(Path("a.jsonl"), "line 1", f"{begin}.png")
    return PlacedImage(begin, end, KeptImage(name, "", "", (1, 2, 2)))


def test_images_go_with_their_chats_and_are_cut_whole() -> None:
    chat = Encoded(np.arange(12), np.ones(12, dtype=np.bool_), (image(1, 4), image(6, 9)))
    cuts = {length: chat.cut(length) for length in (12, 9, 8, 6, 5, 3)}
    assert {length: one.ids.size for length, one in cuts.items()} == {12: 12, 9: 9, 8: 6, 6: 6, 5: 5, 3: 1}
    assert [len(cuts[length].images) for length in (12, 9, 8, 6, 5, 3)] == [2, 2, 1, 1, 1, 0]
    (one,) = sequences([chat.cut(8)], 8, 99, is_packed=False)
    assert [kept.name.name for kept in one.images] == ["1.png"]
