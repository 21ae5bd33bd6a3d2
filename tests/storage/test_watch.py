"""When trouble is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dougong.deadlines import Deadlines
from dougong.errors import StorageError
from dougong.storage.trouble import Healed, Trouble
from dougong.storage.watch import TroubleWatch
from dougong.storage.writer import PieceKind, StorageWriter
from tests.launcher.toyrun import wait_for

ROWS = PieceKind("rows", most_bytes=4)


class Door:
    """Refuses with its reason, if it has one."""

    reason = "full"

    def write(self) -> None:
        if self.reason:
            raise StorageError(self.reason)


@pytest.fixture
def writer() -> Iterator[StorageWriter]:
    made = StorageWriter("the records", Deadlines(storage_retry_s=0.01))
    yield made
    made.close()


def test_trouble_is_told_once_for_each_reason_and_once_when_it_is_over(writer: StorageWriter) -> None:
    door, watch = Door(), TroubleWatch(writer)
    assert watch.look() is None
    writer.put(ROWS, door.write, 4)
    begun = wait_for(watch.look, "trouble", 10)
    assert isinstance(begun, Trouble) and begun.reason == "full"
    assert watch.look() is None
    writer.put(ROWS, door.write, 4)  # there is no room
    door.reason = "read-only"
    again = wait_for(watch.look, "another reason", 10)
    assert isinstance(again, Trouble) and again.reason == "read-only"
    watch.tell_again()
    assert watch.look() == wait_for(writer.trouble, "it lasts")
    door.reason = ""
    over = wait_for(watch.look, "the end", 10)
    assert isinstance(over, Healed) and over.dropped == (("rows", 1),)
    assert watch.look() is None
