"""What differs between a struck run and an undisturbed one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.records.directory import RunDir
from dougong.tools.drill.comparison import RunDifference, compare, digest_of_run, find_differences

DIGESTS = {("model", "a"): "1", ("model", "b"): "2"}
ROWS = {1: (64, 1.0), 2: (64, 0.5)}


@pytest.mark.parametrize(
    ("digests", "rows", "words"),
    [
        (DIGESTS, ROWS, "the same bits"),
        (DIGESTS | {("model", "b"): "3"}, ROWS, "1 tensors differ, such as ('model', 'b')"),
        ({("model", "a"): "1"}, ROWS, "1 tensors differ, such as ('model', 'b')"),
        (DIGESTS, {2: (64, 0.5)}, "steps that were not done: 1"),
        (DIGESTS, ROWS | {2: (64, 0.25)}, "steps with other samples or losses: 2"),
        (DIGESTS, ROWS | {3: (64, 0.25)}, "steps with other samples or losses: 3"),
    ],
)
def test_differences(digests: dict[tuple[str, str], str], rows: dict[int, tuple[int, float]], words: str) -> None:
    found = find_differences(digests, DIGESTS, rows, ROWS)
    assert str(found) == words and found.is_equal is (words == "the same bits")


def test_a_run_without_its_last_checkpoint_is_not_whole(tmp_path: Path) -> None:
    struck, honest = RunDir.create(tmp_path / "struck"), RunDir.create(tmp_path / "honest")
    assert compare(struck, honest, 2) == RunDifference(why="no checkpoint of step 2")
    assert digest_of_run(struck, 2) == ""
