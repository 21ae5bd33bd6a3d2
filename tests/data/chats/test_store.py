"""Chats in the cache: sequences with what is known of their tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dougong.data.chats.images import ImageForm
from dougong.data.chats.parts import ImageName
from dougong.data.chats.store import ChatForm, StoredChats, open_chats
from dougong.data.chats.template import open_chat_tokenizer
from dougong.data.samples.marks import IGNORED
from dougong.errors import DataError
from tests.chats import chat_tokenizer, many, row, write_chats


def opened(folder: Path, rows: list[dict[str, object]], length: int = 64, is_packed: bool = False) -> StoredChats:
    tokenizer = open_chat_tokenizer(str(chat_tokenizer(folder / "tokenizer")), "text")
    write_chats(folder / "a.jsonl", rows)
    form = ChatForm(tokenizer, 310, length, is_packed, no_images)
    return open_chats(str(folder / "a.jsonl"), form, folder / "cache")


def no_images(first: ImageName) -> ImageForm:
    raise AssertionError(first)


def test_labels_are_the_ids_of_what_is_learnt(tmp_path: Path) -> None:
    chats = opened(tmp_path, [row("who?", "me")], 32)
    ids, windows = chats.tokens.read(0, 32)[None], np.array([0])
    labels, positions = chats.marks.labels_and_positions(ids, windows)
    learnt = labels != IGNORED
    assert (labels[learnt] == ids[learnt]).all() and learnt.sum() == chats.marks.num_targets(windows) > 0
    assert positions is None


def test_positions_begin_anew_with_each_chat_and_with_the_padding(tmp_path: Path) -> None:
    chats = opened(tmp_path, [row("a", "b"), row("c", "d")], 64, is_packed=True)
    ids, windows = chats.tokens.read(0, 64)[None], np.array([0])
    _, positions = chats.marks.labels_and_positions(ids, windows)
    assert positions is not None
    starts = np.flatnonzero(positions[0] == 0)
    assert len(starts) == 3 and (np.diff(positions[0])[np.diff(positions[0]) != 1] < 0).all()
    assert (np.diff(ids[0][starts[2] :]) == 0).all()


def test_they_are_made_once_and_what_changes_them_makes_others(tmp_path: Path) -> None:
    opened(tmp_path, many(9))
    opened(tmp_path, many(9))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    opened(tmp_path, many(9), is_packed=True)
    opened(tmp_path, many(9), 70)
    opened(tmp_path, many(8))
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_chats_that_are_too_long_are_told_once(tmp_path: Path) -> None:
    chats = opened(tmp_path, [row("a", "b"), row("a", "b" * 60), row("a" * 60, "b")], 24)
    (warning,), (note,) = chats.remarks.warnings, chats.remarks.notes
    assert "2 of 3 chats are longer than data.sequence_length 24 and cut there" in warning
    assert "a.jsonl: line 2" in warning and "1 of them left out" in warning
    assert note.startswith(f"{tmp_path}/a.jsonl: 3 chats, ") and chats.marks.counts.num_tokens == 2


def test_a_file_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no chat to learn from in it \(1 chats\)"):
        opened(tmp_path, [row("a" * 60, "b")], 16)
    assert not list((tmp_path / "cache").iterdir())
    with pytest.raises(DataError, match=r"there is no chat to learn from in it \(0 chats\)"):
        opened(tmp_path, [])
