"""Writing beside whoever computes: storage that refuses, and storage that does not answer, given by the test."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dougong.deadlines import Deadlines
from dougong.errors import StorageError
from dougong.storage.writer import PieceKind, StorageWriter
from tests.launcher.toyrun import wait_for

QUICK = Deadlines(storage_retry_s=0.01, storage_told_s=0.05)
EVENTS = PieceKind("events")
ROWS = PieceKind("rows", most_bytes=10)
STATUS = PieceKind("status", newest_only=True)


class Storage:
    """Takes pieces, unless it refuses with an error, or hangs until the test lets it go."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.error: Exception | None = None
        self.answers = threading.Event()
        self.answers.set()

    def piece(self, text: str) -> Callable[[], None]:
        def write() -> None:
            self.answers.wait(20)
            if self.error is not None:
                raise self.error
            self.written.append(text)

        return write


@pytest.fixture
def storage() -> Iterator[Storage]:
    made = Storage()
    yield made
    made.answers.set()


@pytest.fixture
def writer() -> Iterator[StorageWriter]:
    made = StorageWriter("the records", QUICK)
    yield made
    made.close()


def test_pieces_are_written_in_their_order(writer: StorageWriter, storage: Storage) -> None:
    for number in range(50):
        writer.put((EVENTS, STATUS)[number == 49], storage.piece(str(number)))
    assert writer.settle(10) is None
    assert storage.written == [str(number) for number in range(50)]
    assert writer.trouble() is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT])
def test_what_is_refused_is_kept_and_written_later(writer: StorageWriter, storage: Storage, number: int) -> None:
    storage.error = OSError(number, os.strerror(number), "/run/events.jsonl")
    for text in "abc":
        assert writer.put(EVENTS, storage.piece(text))
    trouble = wait_for(writer.trouble, "it is refused", 10)
    assert (trouble.what, trouble.reason) == ("the records", f"/run/events.jsonl: {os.strerror(number)}")
    assert trouble.kept == (("events", 3),)
    storage.error = None
    assert writer.settle(10) is None
    assert storage.written == ["a", "b", "c"] and writer.trouble() is None


def test_storage_that_does_not_answer_holds_up_nobody(writer: StorageWriter, storage: Storage) -> None:
    storage.answers.clear()
    for text in "abc":
        writer.put(EVENTS, storage.piece(text))  # returns
    trouble = wait_for(writer.trouble, "it does not answer", 10)
    assert trouble.reason == "storage does not answer"
    left = writer.settle(0.05)
    assert left is not None and left.kept == (("events", 3),)
    storage.answers.set()
    assert writer.settle(10) is None
    assert storage.written == ["a", "b", "c"]


def test_beyond_its_bound_a_kind_is_dropped_and_counted(writer: StorageWriter, storage: Storage) -> None:
    storage.error = StorageError("full")
    taken = [writer.put(ROWS, storage.piece(text), num_bytes=4) for text in "abcd"]
    assert taken == [True, True, False, False]
    trouble = wait_for(writer.trouble, "it is refused", 10)
    assert (trouble.kept, trouble.dropped) == ((("rows", 2),), (("rows", 2),))
    storage.error = None
    assert writer.settle(10) is None
    assert storage.written == ["a", "b"]
    assert writer.take_dropped() == (("rows", 2),)
    assert writer.take_dropped() == ()


def test_of_a_status_the_newest_is_written(writer: StorageWriter, storage: Storage) -> None:
    storage.error = StorageError("full")
    for text in "abc":
        writer.put(STATUS, storage.piece(text))
    wait_for(writer.trouble, "it is refused", 10)
    storage.error = None
    assert writer.settle(10) is None
    assert storage.written == ["c"]


def test_a_kind_that_is_refused_does_not_hold_up_the_others(writer: StorageWriter, storage: Storage) -> None:
    other = Storage()
    storage.error = StorageError("events.jsonl is a folder")
    writer.put(EVENTS, storage.piece("a"))
    writer.put(STATUS, other.piece("b"))
    wait_for(lambda: other.written, "the status", 10)
    assert writer.trouble() is not None


def test_a_writer_that_was_never_used_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    writer = StorageWriter("nothing")
    assert writer.settle(1) is None
    writer.close()
    assert threading.active_count() == before
