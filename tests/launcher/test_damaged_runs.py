"""Whole runs whose checkpoints or record were damaged while nobody led them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.checkpoint.verify import verify
from tests.launcher.test_refused import refused
from tests.launcher.toyrun import ToyRun, toy_job


def spoil(checkpoint: Path) -> bytes:
    file = checkpoint / "model" / "toy-1.json"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    return bytes(data)


def test_a_finished_run_whose_last_checkpoint_is_damaged_computes_it_again(tmp_path: Path) -> None:
    """It is no more done than any other that goes on from its newest valid one."""
    run = ToyRun(tmp_path / "run", toy_job(steps=10)).start()
    assert run.finish() == 0, run.text()
    last = run.run_dir.checkpoints / "step-000010"
    spoil(last)
    run.start("resume")
    assert run.finish() == 0, run.text()
    assert run.events("generation_started")[-1]["resume"] == "step-000005"
    assert verify(last).ok and (last.parent / "set-aside" / "1" / "step-000010.damaged").is_dir()
    run.start("resume")
    assert run.finish() == 2
    assert "step 10 of 10 is done already" in run.text()
    for step in (5, 10):
        spoil(last.parent / f"step-{step:06d}")
    said = refused(run)
    assert "no checkpoint is valid (step-000010, step-000005; `dougong verify" in said
    assert "is done already" not in said


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_resume_of_a_run_whose_events_are_lost_tells_it_and_goes_on(tmp_path: Path, is_gone: bool) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=10)).start()
    assert run.finish() == 0, run.text()
    run.run_dir.events_file.write_text("")
    if is_gone:
        run.run_dir.events_file.unlink()
    run.start("resume", "-o", "steps=15", "-o", "schedule.decay_steps=10")
    assert run.finish() == 0, run.text()
    (told,) = [e["text"] for e in run.events("warning") if "its history is lost" in e["text"]]
    assert told in run.text()
    assert [row["generation"] for row in run.run_dir.read_metrics()] == [1] * 10 + [2] * 5
