"""A worker's log on storage that refuses, or does not answer: the agent goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dougong.deadlines import Deadlines
from dougong.storage.worker_log import LINES, WorkerLog
from dougong.storage.writer import StorageWriter
from tests.launcher.toyrun import wait_for


@pytest.fixture
def writer() -> Iterator[StorageWriter]:
    made = StorageWriter("logs", Deadlines(storage_retry_s=0.01, storage_told_s=0.05))
    yield made
    made.close()


def test_lines_are_written_in_their_order_and_the_file_is_there_also_for_none(
    writer: StorageWriter, tmp_path: Path
) -> None:
    log, silent = WorkerLog(tmp_path / "1" / "0.log", writer), WorkerLog(tmp_path / "1" / "1.log", writer)
    log.write(b"one\n")
    log.write(b"two\n")
    assert writer.settle(10) is None
    assert (tmp_path / "1" / "0.log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "1" / "1.log").read_bytes() == b""
    before = len(os.listdir("/proc/self/fd"))
    log.close()
    silent.close()
    assert writer.settle(10) is None
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_full_disk_costs_no_line_that_there_is_memory_for(writer: StorageWriter, tmp_path: Path) -> None:
    """It ended the agent once, and its workers were taken for those of a lost node."""
    (tmp_path / "0.log").symlink_to("/dev/full")
    log = WorkerLog(tmp_path / "0.log", writer)
    log.write(b"one\ntwo\n")
    trouble = wait_for(writer.trouble, "it is told", 10)
    assert trouble.reason.endswith("No space left on device")
    assert trouble.kept == (("lines", 2),)


def test_a_log_that_cannot_be_made_is_made_later(writer: StorageWriter, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file is in the way")
    log = WorkerLog(tmp_path / "logs" / "0.log", writer)
    log.write(b"one\n")
    wait_for(writer.trouble, "it is told", 10)
    (tmp_path / "logs").unlink()
    assert writer.settle(10) is None
    assert (tmp_path / "logs" / "0.log").read_bytes() == b"one\n"


def test_a_run_directory_that_is_away_is_not_made_anew(writer: StorageWriter, tmp_path: Path) -> None:
    run = tmp_path / "run"
    log = WorkerLog(run / "logs" / "1" / "east" / "0.log", writer)
    log.write(b"one\n")
    wait_for(writer.trouble, "it is told", 10)
    assert not run.exists()
    run.mkdir()
    assert writer.settle(10) is None
    assert (run / "logs" / "1" / "east" / "0.log").read_bytes() == b"one\n"


def hold(writer: StorageWriter) -> Callable[[], None]:
    """Storage does not answer until the returned call."""
    answers, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        answers.wait(20)

    writer.put(LINES, wait)
    begun.wait(10)
    return answers.set


def test_the_log_says_how_many_lines_are_missing(writer: StorageWriter, tmp_path: Path) -> None:
    release = hold(writer)
    log = WorkerLog(tmp_path / "0.log", writer)
    most = LINES.most_bytes
    assert most is not None
    log.write(b"x" * (most - 1) + b"\n")
    log.write(b"two\nthree\n")  # there is no room for these
    trouble = wait_for(writer.trouble, "it is told", 10)
    assert trouble.reason == "storage does not answer" and trouble.dropped == (("lines", 2),)
    release()
    assert writer.settle(10) is None
    log.write(b"four\n")
    assert writer.settle(10) is None
    assert (tmp_path / "0.log").read_bytes()[most:] == (
        b"(2 lines are missing here: storage did not take them)\nfour\n"
    )
