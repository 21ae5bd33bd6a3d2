"""Whoever saves is killed at every call that changes the file system, from the first worker's first file to the last
old checkpoint's deletion: no checkpoint that was reported is lost, none that is half is taken, and the next save
succeeds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.repository import Known, clear, commit, newest_valid, open_gate, prune, verify
from tests.checkpoint.crash import run_dying
from tests.checkpoint.saving import names_of, share, state_of, tiny_model, write_parts
from tests.families import SMALLEST

MOST_CALLS = 400


class Life:
    """A run's saves in one process: workers' parts, commit, the report of it, and the deletion of older ones."""

    def __init__(self, model: Any) -> None:
        self.names = names_of(model, SMALLEST["num_experts"])
        state = state_of(model, self.names)
        self.shares = [share(state, worker, 2, SMALLEST["num_experts"]) for worker in range(2)]

    def save(self, root: Path, step: int, generation: int, reports: Path) -> None:
        report = reports.open("a")
        open_gate(root, generation)
        parts = write_parts(root, self.names, self.shares, step, generation, fence=generation)
        directory = commit(root, step, generation, parts, fence=generation)
        # Of the two, the buffer alone knows of it: what a kill leaves is the whole line or none.
        report.write(f"{step}\n")
        report.flush()
        prune(root, 1, generation, Known([directory.name]), fence=generation)
        clear(root, generation, generation)


@pytest.fixture(scope="module")
def life() -> Life:
    return Life(tiny_model("qwen3_moe", **SMALLEST))


@pytest.fixture(scope="module")
def begun(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a checkpoint of step 20, which was reported."""
    run = tmp_path_factory.mktemp("run")
    (run / "checkpoints").mkdir()
    life.save(run / "checkpoints", 20, 1, run / "reports")
    return run


@pytest.mark.parametrize(
    ("is_torn", "every", "before", "after"),
    [
        (False, 5, 8, 2),
        pytest.param(False, 1, 40, 10, marks=pytest.mark.slow),
        pytest.param(True, 1, 10, 1, marks=pytest.mark.slow),
    ],
)
def test_no_kill_of_a_save_loses_or_fakes_a_checkpoint(
    is_torn: bool, every: int, before: int, after: int, life: Life, begun: Path, tmp_path: Path
) -> None:
    """Killed at `every` so many calls."""
    found_steps = []
    for at_call in range(1, MOST_CALLS, every):
        run = Path(shutil.copytree(begun, tmp_path / str(at_call)))
        root, reports = run / "checkpoints", run / "reports"
        code = run_dying(lambda root=root, reports=reports: life.save(root, 40, 2, reports), at_call, is_torn)
        found = newest_valid(root)
        assert found is not None
        assert all(verify(place.path).ok for place in list_committed(root)), "what is committed is whole"
        found_steps.append(int(found.name.removeprefix("step-")))
        assert found_steps[-1] >= max(map(int, reports.read_text().split())), "what was reported is there"
        if at_call % (7 * every) == 1 or code == 0:
            _goes_on(life, run)
        shutil.rmtree(run)
        if code == 0:
            break
        assert code == -9
    assert code == 0, f"a save takes fewer than {MOST_CALLS} calls"
    assert found_steps == sorted(found_steps), "once committed, always committed"
    assert found_steps.count(20) > before
    assert found_steps.count(40) >= after


def _goes_on(life: Life, run: Path) -> None:
    """The next controller saves as if nothing had been, and leaves nothing behind."""
    root = run / "checkpoints"
    life.save(root, 60, 3, run / "reports")
    assert [place.step for place in list_committed(root)] == [60]
    assert newest_valid(root) == root / "step-000060"
    assert os.listdir(root / "pending") == ["3"]
    assert os.listdir(root / "pending/3") == []
