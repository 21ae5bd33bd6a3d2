"""One file in the place of another, as one step."""

from __future__ import annotations

import os
import resource
import stat
import threading
from pathlib import Path

import pytest
from dougong.records.files import exposed_words, last_line, replace_file, why_not_writable


def test_the_old_text_or_the_new_one_never_half(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    texts = [str(i) * 5000 * i for i in range(1, 10)]
    replace_file(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for text in texts * 20:
            replace_file(path, text)
        done.set()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    for writer in writers:
        writer.join(60)
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_the_mode_is_that_of_the_new_file(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    replace_file(path, "östlich", mode=0o600, durable=durable)
    assert path.read_text(encoding="utf-8") == "östlich"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nobody_can_lay_a_link_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even who knew the name of the new file: it is made, or the write fails."""
    monkeypatch.setattr("secrets.token_hex", lambda number: "known")
    other = tmp_path / "other"
    other.write_text("whole")
    (tmp_path / f".status.json.{os.getpid()}.known").symlink_to(other)
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "status.json", "text")
    assert other.read_text() == "whole"


def test_all_but_secrets_is_as_the_umask_says(tmp_path: Path) -> None:
    for umask, mode in ((0o002, 0o664), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            replace_file(tmp_path / "file", "text")
            replace_file(tmp_path / "secret", "text", mode=0o600)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_folder_that_everybody_may_write_in_is_told(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    assert exposed_words(run) == ""  # /tmp above it is everybody's, where names are one's own
    run.parent.chmod(0o777)
    assert exposed_words(run).startswith(f"{run.parent}: every user of this machine may write there")
    run.parent.chmod(0o1777)
    assert exposed_words(run) == ""
    run.chmod(0o1777)
    assert exposed_words(run).endswith(f"chmod o-w {run}")


def test_what_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", "text")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "absent" / "file", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_place_is_tried_by_writing_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert why_not_writable(tmp_path / "a" / "b") == ""
    assert why_not_writable(tmp_path / "file" / "below") == f"{tmp_path / 'file'} is not a folder"
    assert why_not_writable(Path("/proc/x")).startswith("/proc cannot be written: ")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, hard))  # as a disk without room
    try:
        assert why_not_writable(tmp_path / "a") == f"{tmp_path} cannot be written: File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_logs_last_line_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) is None
    log.write_text("\n \n")
    assert last_line(log) == ""
    log.write_bytes(b"one\ntwo \xff\n\n")
    assert last_line(log) == "two \ufffd"
