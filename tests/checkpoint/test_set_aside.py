"""Checkpoints that a run goes on without are moved, and nobody takes them for the run's."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.set_aside import set_aside
from dougong.errors import CheckpointError


def made(root: Path, *steps: int) -> list[Path]:
    paths = [root / f"step-{step:06d}" for step in steps]
    for path in paths:
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(path.name)
    return paths


def test_each_time_has_a_folder_and_nothing_is_lost(tmp_path: Path) -> None:
    first = made(tmp_path, 20, 40, 60)
    folder = set_aside(tmp_path, first[1:])
    assert folder == tmp_path / "set-aside" / "1"
    assert [place.path for place in list_committed(tmp_path)] == first[:1]
    again = made(tmp_path, 40)
    assert set_aside(tmp_path, again) == tmp_path / "set-aside" / "2"
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("set-aside/*/*"))
    assert kept == ["set-aside/1/step-000040", "set-aside/1/step-000060", "set-aside/2/step-000040"]
    assert (folder / "step-000060" / "manifest.json").read_text() == "step-000060"


def test_what_cannot_be_moved_is_named(tmp_path: Path) -> None:
    made(tmp_path, 20)
    (tmp_path / "set-aside").write_text("a file")
    with pytest.raises(CheckpointError, match="set-aside"):
        set_aside(tmp_path, [tmp_path / "step-000020"])
