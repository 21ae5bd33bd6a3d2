"""Whole runs of toy workers on storage that is full, stuck, or gone for a while: training goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.verify import verify
from tests.launcher.toyrun import ToyRun, toy_job, wait_for

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root; the writers' own tests do without")
STEPS = 150


def toy(path: Path, meet: Path, steps: int = STEPS, **deadlines: float) -> ToyRun:
    """`meet`: a folder on storage that is well, where the toy's workers meet."""
    job = toy_job(steps=steps, step_s=0.02, meet=str(meet), fault={"deadlines": deadlines})
    return ToyRun(path, job)


def assert_whole(run: ToyRun, steps: int = STEPS) -> None:
    """One generation has done every step, and the record has all of it."""
    assert len(run.events("generation_started")) == 1 and run.events("diagnosis") == []
    assert [row["step"] for row in run.run_dir.read_metrics()] == list(range(1, steps + 1))
    assert run.events("finished") and run.run_dir.read_status().state == "FINISHED"
    newest = list_committed(run.run_dir.checkpoints)[0]
    assert newest.step == steps and verify(newest.path).ok


@contextlib.contextmanager
def small(path: Path, size: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "dougong-test", str(path)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


def fill(file: Path) -> Path:
    """A file that takes all the room that is left."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    return file


@needs_root
def test_a_full_disk_ends_no_training_and_everything_is_written_when_there_is_room(tmp_path: Path) -> None:
    """The run directory, checkpoints and logs included: it ended the run at once."""
    path = tmp_path / "run"
    with small(path, "4m"):
        run = toy(path, tmp_path / "meet").start()
        wait_for(lambda: run.events("checkpoint_committed"), "a checkpoint")
        filler = fill(path / "filler")
        wait_for(lambda: "the run's records cannot be written" in run.text(), "it is told")
        assert "No space left on device" in run.text()
        filler.unlink()
        assert run.finish() == 0, run.text()
        assert "the run's records can be written again" in run.text()
        assert run.events("storage_answers") and run.events("storage_trouble")
        assert_whole(run)


def test_a_run_directory_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    job = toy_job(steps=400, step_s=0.02, fault={"deadlines": {"records_end_s": 1.0, "storage_wait_s": 2.0}})
    run = ToyRun(tmp_path / "run", job).start()
    wait_for(lambda: run.events("generation_started"), "the first generation")
    run.path.rename(tmp_path / "elsewhere")
    assert run.finish() == 1, run.text()
    assert f"failed: {run.path}: the run directory is gone" in run.text()
    assert (
        f"next: put the run directory back (where it is lost for good, begin anew), then: dougong status {run.path}"
        in run.text()
    )


@pytest.mark.slow
def test_a_run_directory_that_is_away_for_a_while_is_written_when_it_is_back(tmp_path: Path) -> None:
    run = toy(tmp_path / "run", tmp_path / "meet").start()
    wait_for(lambda: run.events("checkpoint_committed"), "a checkpoint")
    run.path.rename(tmp_path / "elsewhere")
    wait_for(lambda: "the run's records cannot be written" in run.text(), "it is told")
    (tmp_path / "elsewhere").rename(run.path)
    assert run.finish() == 0, run.text()
    assert_whole(run)


@pytest.mark.slow
@needs_root
def test_full_checkpoints_cost_checkpoints_and_no_step(tmp_path: Path) -> None:
    run = toy(tmp_path / "run", tmp_path / "meet").start()
    wait_for(lambda: run.events("checkpoint_committed"), "a checkpoint")
    gate = run.run_dir.checkpoints / "pending" / "1"
    with small(gate, "64k"):
        filler = fill(gate / "filler")
        wait_for(lambda: run.events("checkpoint_failed"), "it is told")
        filler.unlink()
    assert run.finish() == 0, run.text()
    assert "so training on is not saved: no checkpoint since step" in run.text()
    assert_whole(run)


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A file system of its own, which can be frozen, and a run directory there, by a link: what a run prints lies
    elsewhere."""
    path, image = folder / "store", folder / "image"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=False, timeout=30)
    if mounted.returncode != 0:
        pytest.skip("no loop mounts here")
    (path / "run").mkdir()
    (folder / "run").symlink_to(path / "run")
    try:
        yield path, folder / "run"
    finally:
        subprocess.run(["fsfreeze", "-u", str(path)], check=False, timeout=30, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=30)


@contextlib.contextmanager
def frozen(store: Path) -> Iterator[None]:
    subprocess.run(["fsfreeze", "-f", str(store)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", str(store)], check=True, timeout=30)


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("seconds", [5, 15, 60])
def test_storage_that_is_frozen_ends_no_training(seconds: int, tmp_path: Path) -> None:
    """All of the run directory; `logs/` alone that hung for 16 s were taken for a lost node once."""
    steps = STEPS + 50 * (seconds + 5)
    with disk(tmp_path) as (store, path):
        run = toy(path, tmp_path / "meet", steps).start()
        run.await_step(20)
        with frozen(store):
            time.sleep(seconds)
        assert run.finish(steps * 0.1) == 0, run.text()
        assert_whole(run, steps)


@pytest.mark.slow
@needs_root
def test_a_worker_that_dies_while_storage_is_frozen_is_replaced_meanwhile(tmp_path: Path) -> None:
    with disk(tmp_path) as (store, path):
        job = toy_job(
            steps=1500, step_s=0.02, meet=str(tmp_path / "meet"), memory=True, checkpoint={"every": 1200, "keep": 2}
        )
        run = ToyRun(path, job).start()
        run.await_step(20)
        victim = run.worker_pids()["east/1"]
        with frozen(store):
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: "training again" in run.text(), "the next generation trains")
            wait_for(lambda: "records cannot be written: storage does not answer" in run.text(), "it is told")
        assert run.finish() == 0, run.text()
        assert len(run.events("generation_started")) == 2
        assert {row["step"] for row in run.run_dir.read_metrics()} == set(range(1, 1501))


@pytest.mark.slow
@needs_root
def test_a_stop_while_storage_is_frozen_is_met_when_it_answers(tmp_path: Path) -> None:
    with disk(tmp_path) as (store, path):
        run = toy(path, tmp_path / "meet", 2000).start()
        run.await_step(20)
        with frozen(store):
            run.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "stop requested by SIGTERM" in run.text(), "the stop is heard")
            time.sleep(3)
        assert run.finish() == 143, run.text()
        (stopped,) = run.events("stopped")
        assert list_committed(run.run_dir.checkpoints)[0].step == stopped["step"]
