"""A run that signs its checkpoints, from `dougong run` to a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.checkpoint.manifest import Manifest
from dougong.launcher.signing.key_file import make_key, read_key
from dougong.launcher.signing.key_of_run import OWN_KEY
from tests.checkpoint.edits import rewrite
from tests.launcher.test_refused import refused
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


def test_a_resume_with_another_key_says_that_the_key_is_the_cause_and_leaves_the_run_finished(tmp_path: Path) -> None:
    first, other = make_key(tmp_path / "keys/first"), make_key(tmp_path / "keys/other")
    job = toy_job(steps=10, checkpoint={"every": 5, "keep": 3, "sign": str(first.path)})
    run = ToyRun(tmp_path / "run", job).start()
    assert run.finish() == 0, run.text()

    longer = ("-o", "steps=15", "-o", "schedule.decay_steps=15")
    said = refused(run, *longer, "-o", f"checkpoint.sign={other.path}")
    assert f"checkpoint.sign means {other.path}, which is key {other.name}, and no checkpoint is signed by it" in said
    assert f"step-000010 by key {first.name}" in said
    again = f"dougong resume {run.path} {' '.join(longer)}"
    assert f"with their own key: `{again} -o checkpoint.sign={first.path}`" in said
    assert f"`dougong verify {run.path} --key {other.path} --sign`, then `" in said
    assert "-o checkpoint.sign=null`, which checks no signature" in said
    assert "mend or mount the storage" not in said and "--from-scratch" not in said
    status = run.run_dir.read_status()
    assert status is not None and status.state == "FINISHED"

    # Its own would be made: that is no way on, and nothing is left of the try.
    said = refused(run, *longer, "-o", "checkpoint.sign=run")
    assert "checkpoint.sign means a key that is yet to be made" in said and not (run.path / "private").exists()
    said = refused(run, *longer, "-o", f"checkpoint.sign={tmp_path}/none")
    assert "none: the key cannot be read" in said

    run.start("resume", *longer)
    assert run.finish() == 0, run.text()
    assert Manifest.load(run.run_dir.checkpoints / "step-000015", first).step == 15


@pytest.mark.parametrize("content", [None, b"short"])
def test_a_run_whose_key_is_none_begins_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    run = ToyRun(tmp_path / "run", toy_job(checkpoint={"sign": str(file)})).start()
    assert run.finish() == 2, run.text()
    assert str(file) in run.text() and not run.path.exists()
