"""`dougong prove` on real runs: equal layouts, and a device that errs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from dougong.errors import JobError
from dougong.tools.layouts import layouts
from dougong.tools.local_run import PARTIAL_RUN, LocalRunOptions
from dougong.tools.prove import explain, run_layouts, shortened
from tests.tools.recording import QUICK, small_job

FLIPPING = "tests.training.flipping"
FAULTY = LocalRunOptions(
    dataclasses.replace(QUICK.entries, train=f"{FLIPPING}:flip_on_two", preload=(FLIPPING, *PARTIAL_RUN.preload))
)


@pytest.mark.slow
def test_a_device_that_errs_is_found_with_the_place_and_other_layouts_are_equal(
    tmp_path: Path, temporary: Path
) -> None:
    """The entry errs in step 2 of every run on two workers: not where it was stopped before, and resumed on three. The
    job's own warm-up and drill do not fit two steps."""
    job = shortened(small_job(tmp_path), 2)
    several = sorted(
        (t for t in layouts(job, 4, 4) if t.workers in ("1", "2 then 3", "2")), key=lambda t: t.workers == "2"
    )
    runs = list(run_layouts(job, several, tmp_path, FAULTY))
    one, resumed, erring = runs
    generations = [record.generation for record in resumed.records.values()]
    assert (resumed.layout.workers, generations) == ("2 then 3", [1, 2])
    assert one.last.digest == resumed.last.digest != erring.last.digest
    assert [run.split for run in runs] == [None, None, 2]
    assert explain([one, resumed], FAULTY) == []
    said = "\n".join(explain(runs, FAULTY))
    assert said.startswith("different: step 2: ")
    assert "first difference: lane 1, micro-batch 0, forward, model.layers.1.mlp.experts, expert " in said
    assert "computed by both/0 of A and by both/1" in said
    assert list(temporary.glob("dougong-*")) == []


def test_what_cannot_be_proved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="determinism: run promises no bits across layouts.*-o determinism=layout"):
        shortened(small_job(tmp_path, determinism="run"), 2)
