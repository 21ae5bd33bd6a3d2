"""Names of directories say step and generation, and nothing else is taken for a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.checkpoint.directories import (
    committed_directory,
    list_committed,
    list_pending,
    pending_directory,
    step_of,
)


def test_a_save_is_pending_then_committed_under_the_first_free_name(tmp_path: Path) -> None:
    assert pending_directory(tmp_path, 60, 2) == tmp_path / "pending" / "step-000060.g2"
    plain = committed_directory(tmp_path, 60, 1)
    assert plain == tmp_path / "step-000060"
    plain.mkdir()
    assert committed_directory(tmp_path, 60, 2) == tmp_path / "step-000060.g2"


@pytest.mark.parametrize(
    ("name", "step"),
    [("step-000060", 60), ("step-000060.g2", 60), ("step-1000000", 1_000_000), ("step-60", None), ("pending", None)],
)
def test_a_name_claims_a_step_or_none(name: str, step: int | None) -> None:
    assert step_of(Path("checkpoints") / name) == step


def test_lists_are_newest_first_and_hold_directories_of_that_name_only(tmp_path: Path) -> None:
    for name in ("step-000020", "step-000100", "step-000020.g3", "other", "pending/step-000040.g1", "pending/trash-x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "step-000060").write_text("a file")
    assert [(place.step, place.generation) for place in list_committed(tmp_path)] == [(100, 0), (20, 3), (20, 0)]
    assert [place.path.name for place in list_pending(tmp_path)] == ["step-000040.g1"]
    assert list_committed(tmp_path / "missing") == []
