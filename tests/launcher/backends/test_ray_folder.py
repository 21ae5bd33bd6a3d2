"""A run's own Ray has a folder of its own, in which its sockets fit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from dougong.launcher.backends.ray_folder import fits, make_folder, remove_folder
from dougong.launcher.backends.ray_processes import LocalNode


def test_a_folder_is_known_as_a_runs_own_and_removed() -> None:
    folder = make_folder()
    assert LocalNode("a", "127.0.0.1:1", str(folder)).is_a_runs_own
    (folder / "session").mkdir()
    remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)


def test_where_sockets_would_not_fit_it_lies_in_tmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert fits("/tmp") and fits("/scratch/user1") and not fits(str(deep))
    folder = make_folder()
    remove_folder(folder)
    assert folder.parent == Path("/tmp")
