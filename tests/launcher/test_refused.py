"""A resume that is refused says so, and leaves the run's directory as it was, byte by byte."""

from __future__ import annotations

from pathlib import Path

import yaml
from dougong.launcher.refused import RunBefore
from dougong.records.directory import RunDir
from dougong.records.status import RunStatus
from tests.launcher.toyrun import ToyRun, toy_job


def contents(path: Path) -> dict[str, bytes]:
    """All of a run's directory, but for the number in `lease/` by which controllers are counted."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {name: file.read_bytes() for file in files if not (name := str(file.relative_to(path))).startswith("lease/")}


def refused(run: ToyRun, *words: str) -> str:
    """What it says; nothing has changed."""
    before = contents(run.path)
    run.start("resume", *words)
    assert run.finish() in (1, 2), run.text()
    after = contents(run.path)
    assert sorted(after) == sorted(before), run.text()
    assert [name for name, data in before.items() if after[name] != data] == []
    return run.text()


def test_a_job_file_that_was_changed_by_hand_is_refused_and_the_run_is_as_it_was(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=5)).start()
    assert run.finish() == 0, run.text()
    job = yaml.safe_load(run.run_dir.job_file.read_text())
    job_seed = job["seed"]
    job["seed"] = 99
    run.run_dir.job_file.write_text(yaml.safe_dump(job))

    said = refused(run, "-o", "steps=9", "-o", "schedule.decay_steps=5")
    assert "refused: the resume has trained nothing" in said
    assert f"step-000005: was written by another job (seed: {job_seed} then, 99 now), so the next" in said
    assert "refused, and the run is as it was: toy: finished at step 5/5" in said
    assert "failed at step" not in said and "report:" not in said
    again = f"dougong resume {run.path} -o steps=9 -o schedule.decay_steps=5"
    assert said.splitlines()[-1] == f"next: mend what it names, then: {again}"


def test_a_resume_that_is_refused_before_it_has_a_controller_changes_nothing(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", toy_job(steps=5)).start()
    assert run.finish() == 0, run.text()
    text = run.run_dir.job_file.read_text().replace("accelerator: cpu", "accelerator: hostsim")
    run.run_dir.job_file.write_text(text)
    said = refused(run, "-o", "steps=9")
    assert "islands.east.accelerator: the run has used hostsim" in said and "Traceback" not in said


def test_what_was_written_since_is_taken_back(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_status(RunStatus(job="toy", state="STOPPED", step=4, steps=9))
    log = run.agent_log("east")
    log.parent.mkdir(parents=True)
    log.write_text("first\n")
    run.metrics_file.write_text("{}\n")
    (run.path / "mine.txt").write_text("somebody's")
    before, held = contents(run.path), RunBefore(run)

    run.write_status(RunStatus(job="toy", state="FAILED", step=4, steps=9))
    run.write_plan("{}")
    for file in (run.metrics_file, log):
        file.write_text(file.read_text() + "{}\n")
    other = run.log_file(0, "west/3")
    other.parent.mkdir(parents=True)
    other.write_text("new\n")
    (run.path / "mine.txt").write_text("somebody's, since")
    held.put_back(keep_logs=True)
    assert other.read_text() == "new\n" and log.read_text() == "first\n{}\n"
    held.put_back()
    assert contents(run.path) == before | {"mine.txt": b"somebody's, since"}
    assert not other.parent.exists()
