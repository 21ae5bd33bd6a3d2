"""Chats in the cache: sequences with what is known of their tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from dougong.data.chats import store
from dougong.data.chats.images import ImageForm
from dougong.data.chats.parts import ImageName
from dougong.data.chats.store import ChatForm, StoredChats, open_chats
from dougong.data.chats.template import open_chat_tokenizer
from dougong.data.samples.marks import IGNORED
from dougong.errors import DataError
from tests.chats import chat_tokenizer, many, row, write_chats
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


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
    padding = chats.marks.padding(windows, 64)
    assert padding is not None and np.flatnonzero(padding[0]).tolist() == list(range(starts[2], 64))


def test_they_are_made_once_and_what_changes_them_makes_others(tmp_path: Path) -> None:
    opened(tmp_path, many(9))
    opened(tmp_path, many(9))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    opened(tmp_path, many(9), is_packed=True)
    opened(tmp_path, many(9), 70)
    opened(tmp_path, many(8))
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_ids_beyond_those_of_tokenizer_json_are_kept(tmp_path: Path) -> None:
    """tokenizer.json has 65,536 ids, which 16 bits hold; transformers adds what tokenizer_config.json names."""
    words = {f"w{number}": number for number in range(65534)} | {"<unk>": 65534, "</s>": 65535}
    model = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")
    made.chat_template = "{% for m in messages %}<{{ m.role }}> {{ m.content }} </s> {% endfor %}"
    made.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["extra_special_tokens"] = ["<user>", "<assistant>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = open_chat_tokenizer(str(tmp_path), "text")
    file = write_chats(tmp_path / "a.jsonl", [row("w1", "w2")])
    chats = open_chats(str(file), ChatForm(tokenizer, tokenizer.num_ids, 6, False, no_images), tmp_path / "cache")
    assert tokenizer.num_ids == 65538
    assert chats.tokens.read(0, 6).tolist() == [65536, 1, 65535, 65537, 2, 65535]
    with pytest.raises(DataError, match="raise model.config.vocab_size to at least 65538"):
        chats.tokens.check_all(65537)


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


def test_what_was_told_is_told_again_with_the_names_of_now(tmp_path: Path) -> None:
    rows = [row("a", "b"), row("a", "b" * 60) | {"id": 1}]
    first = opened(tmp_path, rows, 24)
    other = write_chats(tmp_path / "other.jsonl", rows)
    tokenizer = open_chat_tokenizer(str(tmp_path / "tokenizer"), "text")
    again = open_chats(str(other), ChatForm(tokenizer, 310, 24, False, no_images), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert again.remarks.warnings == tuple(one.replace("/a.jsonl", "/other.jsonl") for one in first.remarks.warnings)
    cut, unread = again.remarks.warnings
    assert "other.jsonl: line 2, " in cut and "of all) are lost so: raise it" in cut
    assert f"neither dougong nor the chat template reads: `id` (1 rows, the first: {other}: line 2)" in unread


def test_a_file_that_changes_while_it_is_read_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "content_digest", lambda files: "of another file")
    with pytest.raises(DataError, match="changed while it was read"):
        opened(tmp_path, many(3))
    assert not list((tmp_path / "cache").iterdir())


def test_several_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [row("a", "b"), {"messages": []}, row("a"), row("a", "b")]
    with pytest.raises(DataError, match=r"line 2: messages: .* and 1 more rows are refused \(.*line 3\); the other"):
        opened(tmp_path, rows)
    with pytest.raises(DataError, match=r"and 19 more rows are refused .*, \.\.\.\); it may be that no row is good"):
        opened(tmp_path, [{}] * 100)


def test_padding_is_told_and_what_helps(tmp_path: Path) -> None:
    (note,) = opened(tmp_path, many(9), 200).remarks.notes
    assert "9 sequences of 200, " in note and "data.packing: true puts several chats into one" in note
    (note,) = opened(tmp_path, many(9), 200, is_packed=True).remarks.notes
    assert "4 sequences of 200, 22% of them padding" in note and "data.packing" not in note
