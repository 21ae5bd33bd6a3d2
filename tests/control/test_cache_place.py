"""One place for what serves later runs: by the job, the variable, the home; said when it cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.control.cache_place import cache_place, why_unwritable
from tests.storage import read_only


def test_the_job_comes_before_the_variable_and_that_before_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_place(None) == tmp_path / ".cache" / "dougong"
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_place(None) == Path("/scratch/dougong")
    assert cache_place("/fast") == Path("/fast")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: to be passed over
    assert cache_place(None) == tmp_path / ".cache" / "dougong"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_place(None) is None
    assert why_unwritable(None) == "no place for the cache: this user has no home directory"


def test_why_nothing_can_be_kept(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "new" / "folder") is None
    (tmp_path / "file").write_text("")
    assert why_unwritable(tmp_path / "file" / "x") == (
        f"{tmp_path / 'file' / 'x'}: the cache cannot be written: {tmp_path / 'file'} is not a directory"
    )
    (tmp_path / "locked").mkdir()
    with read_only(tmp_path / "locked"):
        text = why_unwritable(tmp_path / "locked" / "x")
    assert text is not None and text.endswith(f"{tmp_path / 'locked'} is read-only for this user")


def test_a_place_that_takes_no_file_is_none_for_root_either() -> None:
    text = why_unwritable(Path("/proc/x"))
    assert text is not None and text.startswith("/proc/x: the cache cannot be written: /proc")
