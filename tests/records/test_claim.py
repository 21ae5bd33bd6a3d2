"""A directory for a new run: what may lie there, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import LaunchError
from dougong.records.claim import claim, strangers_in
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointCommitted, RunCreated
from dougong.records.lease import take_lease


def left_by_a_run(path: Path, job: str = "job: first\n") -> RunDir:
    run = RunDir.create(path)
    run.write_job(job)
    run.append_event(RunCreated(generation=1, job="first"))
    (run.logs / "1").mkdir(parents=True)
    return run


def test_a_new_directory_and_an_empty_one(tmp_path: Path) -> None:
    for path in (tmp_path / "deep" / "run", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        with claim(path) as claimed:
            assert claimed.earlier is None
            assert (claimed.run_dir.path, claimed.run_dir.read_events()) == (path, [])
            with pytest.raises(LaunchError, match="is alive"):
                claim(path)


def test_a_run_that_has_come_to_nothing_gives_its_directory_and_keeps_its_record(tmp_path: Path) -> None:
    left_by_a_run(tmp_path)
    (tmp_path / "checkpoints" / "pending" / "step-000005.g1").mkdir(parents=True)
    with claim(tmp_path) as claimed:
        assert claimed.earlier == tmp_path / "set-aside" / "1"
        assert claimed.run_dir.read_events() == []
        assert claimed.run_dir.read_job() == ""
        claimed.run_dir.write_job("job: second\n")
    kept = RunDir.open(tmp_path / "set-aside" / "1")
    assert kept.read_job() == "job: first\n"
    assert [event.kind for event in kept.read_events()] == ["created"]
    assert (kept.checkpoints / "pending" / "step-000005.g1").is_dir()
    with claim(tmp_path) as again:
        assert again.earlier == tmp_path / "set-aside" / "2"
    assert RunDir.open(tmp_path / "set-aside" / "2").read_job() == "job: second\n"


def test_empty_folders_on_other_storage_stay_where_they_are(tmp_path: Path) -> None:
    """Mounted or linked there by somebody whose checkpoints and logs are to lie elsewhere."""
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for name in ("checkpoints", "logs"):
        (elsewhere / name / "lost+found").mkdir(parents=True)
    path.mkdir()
    (path / "checkpoints").symlink_to(elsewhere / "checkpoints")
    (path / "logs").symlink_to("../elsewhere/logs")
    with claim(path) as claimed:
        assert claimed.earlier is None
        assert claimed.run_dir.checkpoints.resolve() == elsewhere / "checkpoints"
        assert claimed.run_dir.logs.resolve() == elsewhere / "logs"


@pytest.mark.parametrize("where", ["checkpoints/step-000010", "checkpoints/set-aside/1/step-000010"])
def test_a_run_with_checkpoints_is_gone_on_with(tmp_path: Path, where: str) -> None:
    left_by_a_run(tmp_path)
    (tmp_path / where).mkdir(parents=True)
    with pytest.raises(LaunchError, match="holds a run already, with checkpoints of step 10; .*`dougong resume"):
        claim(tmp_path)


def test_checkpoints_that_are_away_are_checkpoints(tmp_path: Path) -> None:
    """Their storage may be mounted again tomorrow."""
    run = left_by_a_run(tmp_path)
    for step in (5, 10):
        run.append_event(
            CheckpointCommitted(generation=1, step=step, directory=f"step-{step:06d}", num_bytes=1, seconds=0.1)
        )
    with pytest.raises(
        LaunchError, match="has committed checkpoints of steps 5, 10; none of them is there: .*--from-scr"
    ):
        claim(tmp_path)
    run.events_file.write_text("spoilt\n")
    with pytest.raises(LaunchError, match=r"whose record cannot be read.*events\.jsonl:1"):
        claim(tmp_path)


def test_other_peoples_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c", "d"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(LaunchError, match=r"files that are no run's \(a.txt, b.txt, c and 1 more\)"):
        claim(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c", "d"]


def test_what_systems_leave_is_nobodys(tmp_path: Path) -> None:
    left_by_a_run(tmp_path)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".status.json.12.34").write_text("half a file of a controller that was killed")
    assert strangers_in(RunDir(tmp_path)) == []
    with claim(tmp_path):
        assert (tmp_path / "lost+found").is_dir()


def test_a_run_that_is_alive_keeps_its_directory(tmp_path: Path) -> None:
    run = left_by_a_run(tmp_path)
    with take_lease(tmp_path), pytest.raises(LaunchError, match=r"is alive \(controller process"):
        claim(tmp_path)
    assert run.read_job() == "job: first\n"


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="file: a file lies there"):
        claim(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "mount")
    with pytest.raises(LaunchError, match=r"link is a link to .*/mount, which is not there; mount it"):
        claim(tmp_path / "link" / "run")
    (tmp_path / "mount").mkdir()
    with claim(tmp_path / "link") as claimed:
        assert claimed.run_dir.events_file.exists()
    with pytest.raises(LaunchError, match="file: a file; give the directory"):
        RunDir.open(tmp_path / "file")
