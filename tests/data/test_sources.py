"""Each kind of data, opened with its documents told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data.sources import OpenedSource, Opener, at_source
from dougong.errors import DataError
from dougong.job.schema import Job
from tests.chats import chat_tokenizer, many, write_chats
from tests.data.test_megatron import write_megatron
from tests.jobs import make_job


def open_source(job: Job, vocab_size: int | None, cache: Path) -> OpenedSource:
    return Opener(job, vocab_size, cache).open(job.data)


TEXTS = ("one", "a longer text", "x")
STARTS = [0, 4, 18]  # a byte 0 ends each


def job(**data: Any) -> Job:
    return make_job(data={"sequence_length": 4, "document_masks": True, **data})


def section_of(kind: str, folder: Path) -> dict[str, Any]:
    """The same three documents."""
    ids = [[*text.encode(), 0] for text in TEXTS]
    if kind == "text":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text)
        return {"text": f"{folder}/*.txt", "tokenizer": "bytes"}
    if kind == "dataset":
        (folder / "a.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
        return {"dataset": str(folder / "a.jsonl"), "tokenizer": "bytes"}
    if kind == "megatron":
        return {"megatron": str(write_megatron(folder / "set", ids))}
    np.concatenate(ids).astype(np.uint16).tofile(folder / "ids.bin")
    return {"tokens": str(folder / "ids.bin"), "document_end": 0}


@pytest.mark.parametrize("kind", ["text", "dataset", "megatron", "tokens"])
def test_the_same_documents_are_found_whatever_they_come_from(kind: str, tmp_path: Path) -> None:
    opened = open_source(job(**section_of(kind, tmp_path)), 256, tmp_path / "cache")
    windows = np.arange(opened.tokens.num_tokens // 4)
    ids = np.stack([opened.tokens.read(4 * int(window), 4) for window in windows])
    assert opened.marks is not None
    _, positions = opened.marks.labels_and_positions(ids, windows)
    assert positions is not None
    begins = {int(place) for place in np.flatnonzero(positions.ravel() == 0)}
    assert begins == {place for place in {*STARTS, *range(0, 20, 4)} if place < 20}
    assert "3 documents, 20 tokens, each document by itself" in opened.remarks.notes[-1]


@pytest.mark.parametrize("kind", ["text", "dataset", "megatron", "tokens"])
def test_nothing_is_known_of_documents_that_nobody_asks_for(kind: str, tmp_path: Path) -> None:
    section = section_of(kind, tmp_path) | {"document_end": None, "document_masks": False}
    opened = open_source(job(**section), 256, tmp_path / "cache")
    assert opened.marks is None and not opened.remarks.notes


def test_chats_have_marks_of_their_own(tmp_path: Path) -> None:
    chat_tokenizer(tmp_path / "tokenizer")
    write_chats(tmp_path / "a.jsonl", many(4))
    section = {"chat": str(tmp_path / "a.jsonl"), "tokenizer": str(tmp_path / "tokenizer"), "sequence_length": 128}
    opened = open_source(job(**section, document_masks=False), None, tmp_path / "cache")
    assert opened.marks is not None and not opened.marks.is_packed and opened.tokens.num_tokens == 4 * 128


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("data.text: a.txt: no such file", "data.mixture.2.text: a.txt: no such file"),
        ("a.txt: byte 7: not UTF-8", "data.mixture.2: a.txt: byte 7: not UTF-8"),
        ("data.tokenizer: t: no such file", "data.tokenizer: t: no such file"),
        (
            "data.dataset: a/data.text: no column; name it in data.column",
            "data.mixture.2.dataset: a/data.text: no column; name it in data.mixture.2.column",
        ),
    ],
)
def test_an_error_of_a_source_is_told_at_its_place(text: str, placed: str) -> None:
    with pytest.raises(DataError) as caught, at_source(("data", "mixture", 2)):
        raise DataError(text)
    assert str(caught.value) == placed
    with pytest.raises(DataError) as caught, at_source(("data",)):
        raise DataError(text)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("text", "each file is one; give each document a file, or a row of a data.dataset"),
        ("megatron", "the index's list of documents names no second one; preprocess it again with each document by"),
        ("tokens", "check where its documents end, if it has several"),
    ],
)
def test_a_source_of_one_document_is_told(kind: str, remedy: str, tmp_path: Path) -> None:
    section = section_of(kind, tmp_path)
    if kind == "text":
        section["text"] = str(tmp_path / "1.txt")
    elif kind == "megatron":
        list_documents(tmp_path / "set.idx", [0, 3])
    else:
        np.array([5, 6, 7, 0], dtype=np.uint16).tofile(tmp_path / "ids.bin")
    (warning,) = open_source(job(**section), 256, tmp_path / "cache").remarks.warnings
    assert "is one document, so data.document_masks parts nothing in it" in warning and remedy in warning


def list_documents(index: Path, documents: list[int]) -> None:
    """Of three sequences, written by `write_megatron`."""
    head = bytearray(index.read_bytes()[: 34 + 3 * (4 + 8)])
    head[26:34] = len(documents).to_bytes(8, "little")
    index.write_bytes(bytes(head) + np.array(documents, dtype="<i8").tobytes())
