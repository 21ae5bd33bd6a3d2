"""A run that signs its checkpoints, from `dougong run` to a resume."""

from __future__ import annotations

from pathlib import Path

from dougong.checkpoint.manifest import Manifest
from dougong.launcher.signing_key import OWN_KEY, read_key
from tests.checkpoint.edits import rewrite
from tests.launcher.toyrun import ToyRun, toy_job


def test_a_run_makes_its_key_signs_and_refuses_what_nobody_signed_and_to_go_on_without_the_key(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", {**toy_job(), "checkpoint": {"every": 5, "keep": 3, "sign": "run"}}).start()
    assert run.finish() == 0, run.text()
    key = read_key(run.run_dir.path / OWN_KEY)
    newest = run.run_dir.checkpoints / "step-000020"
    assert Manifest.load(newest, key).signed_by == key.name

    rewrite(newest, lambda body: body["header"]["random"].update(seed=99))
    away = key.path.rename(tmp_path / "away")
    run.start("resume", "-o", "steps=25", "-o", "schedule.decay_steps=25")
    assert run.finish() != 0
    assert "the key that the run's checkpoints are signed with is gone; put it back" in run.text()
    assert newest.is_dir(), "a resume that is refused leaves the run as it was"

    away.rename(key.path)
    run.start("resume", "-o", "steps=25", "-o", "schedule.decay_steps=25")
    assert run.finish() == 0, run.text()
    (rejected,) = run.events("checkpoint_rejected")
    assert "somebody without the key has changed it" in rejected["reason"]
    assert run.events("generation_started")[-1]["resume"] == "step-000015"
    assert Manifest.load(run.run_dir.checkpoints / "step-000025", key).step == 25
