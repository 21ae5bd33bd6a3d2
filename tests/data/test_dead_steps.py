"""Steps of which nothing would be learnt are found before the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dougong.data import windows
from dougong.data.dead_steps import first_dead_step
from dougong.data.preview import preview_data
from dougong.data.windows import TokenWindows, open_data
from dougong.errors import DataError
from dougong.job.schema import Job
from tests.jobs import make_job

LENGTH, END = 8, 9
DEAD = "would learn nothing: every document there is one token long; check where documents end"


def job_of(folder: Path, dead: int, steps: int, a_step: int = 1, **data: Any) -> Job:
    """40 windows, of which the last `dead` are documents of one token each."""
    ids = np.full(40 * LENGTH, 3, dtype="<u2")
    ids[max(0, (40 - dead) * LENGTH - 1) :] = END
    ids.tofile(folder / "ids.bin")
    data = {"sequence_length": LENGTH, "document_masks": True, **data}
    if "mixture" not in data:
        data |= {"tokens": str(folder / "ids.bin"), "document_end": END}
    batch = {"lanes": 1, "microbatches": a_step, "microbatch_size": 1}
    return make_job(data=data, steps=steps, batch=batch, cache=str(folder / "cache"))


def unchecked(job: Job, monkeypatch: pytest.MonkeyPatch) -> TokenWindows:
    with monkeypatch.context() as patch:
        patch.setattr(windows, "first_dead_step", lambda *_: None)
        return open_data(job, None)


def slow(data: TokenWindows) -> int | None:
    """By reading each step."""
    for step in range(1, data.steps + 1):
        first, last = data.samples(step)
        if data.mixture.num_targets(np.arange(first, last + 1)) == 0:
            return step
    return None


@pytest.mark.parametrize(("dead", "a_step"), [(0, 1), (1, 1), (3, 2), (20, 2), (20, 4), (20, 8), (40, 4)])
def test_the_first_is_that_of_reading_each(
    dead: int, a_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = unchecked(job_of(tmp_path, dead, 200, a_step), monkeypatch)
    assert first_dead_step(data.mixture, 200, a_step) == slow(data)


def test_one_beyond_the_steps_of_a_job_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = unchecked(job_of(tmp_path, 1, 80), monkeypatch)
    first = slow(data)
    assert first is not None and first > 1
    assert first_dead_step(data.mixture, first - 1, 1) is None
    open_data(job_of(tmp_path, 1, first - 1), None)
    for look in (open_data, preview_data):
        with pytest.raises(DataError, match=rf"ids.bin: step {first} {DEAD}"):
            look(job_of(tmp_path, 1, first), None)


def test_another_source_may_give_a_step_its_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.arange(40 * LENGTH, dtype="<u2").tofile(tmp_path / "more.bin")
    mixture = [
        {"tokens": str(tmp_path / "ids.bin"), "document_end": END, "weight": 1.0},
        {"tokens": str(tmp_path / "more.bin"), "document_end": 5, "weight": 1.0},
    ]
    assert open_data(job_of(tmp_path, 40, 200, 2, mixture=mixture), None).num_windows == 80
    with pytest.raises(DataError, match=rf"step [12] {DEAD}"):
        open_data(job_of(tmp_path, 40, 200, 1, mixture=mixture), None)


def test_held_out_windows_are_looked_at_too(tmp_path: Path) -> None:
    validation = {"fraction": 0.025, "every": 1, "batches": 1}
    with pytest.raises(DataError, match="the held-out windows would learn nothing"):
        open_data(job_of(tmp_path, 39, 1, 40, validation=validation), None)
