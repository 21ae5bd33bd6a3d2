"""Rehearsals on the small job: the same bits, everything named, nothing left; and they go on where they ended."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.tools.drill.proof import LINES, Proof
from tests.launcher.toyrun import wait_for


def test_two_do_not_rehearse_in_one_folder(tmp_path: Path) -> None:
    with (tmp_path / "drills.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LaunchError, match=r"another drill is at work here; .* another --folder"):
            list(Proof(tmp_path, 7).rehearse(1))
    assert list(Proof(tmp_path, 7).rehearse(0)) == [], "it is free again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all schedules here: they are held against one undisturbed run."""
    return tmp_path_factory.mktemp("drills")


def assert_good(proof: Proof, count: int) -> None:
    """Final weights, optimizer and samples of the undisturbed run; all faults have come and are named right; nothing
    hangs, and no process, socket, shared memory or namespace is left."""
    for rehearsal in proof.rehearse(count):
        assert rehearsal.is_good, json.dumps(rehearsal.to_json())
    told = proof.summary(count)
    assert told.is_good and (told.done, told.equal, told.hung, told.dirty) == (count, count, 0, 0)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_schedule_ends_with_the_bits_of_the_undisturbed_run(folder: Path) -> None:
    assert_good(Proof(folder, 5), 1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_six_schedules_do_and_are_not_done_again(folder: Path) -> None:
    """Deaths, hangs, pairs of them; `benchmarks/recovery.py` rehearses twenty."""
    proof = Proof(folder, 5)
    assert_good(proof, 6)
    assert [*Proof(folder, 5).rehearse(6)] == []
    digests = {row["digest"] for row in proof.lines.done.values()}
    assert len(digests) == 1 and "" not in digests, "of one undisturbed run"
    assert not list(folder.glob("run-*")), "their lines say all of them"


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_proof_that_is_killed_leaves_no_run_and_goes_on_where_it_was(folder: Path) -> None:
    """In the middle of its second schedule; the first is not done again."""
    words = [sys.executable, "-m", "dougong", "drill", "--seed", "6", "--count", "2", "--folder", str(folder)]
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    wait_for(lambda: (folder / "run-6-2/metrics.jsonl").exists(), "the second schedule trains", 400)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    run = str(folder / "run-6-2")
    wait_for(lambda: not processes_with(run), "what it has begun is gone", 60)
    before = (folder / LINES).read_text()
    ended = subprocess.run(words, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (folder / LINES).read_text().startswith(before) and '"6/1"' in before
    assert "6/1:" not in ended.stdout and "6/2:" in ended.stdout
    assert "2 of 2 schedules done: 2 with the bits" in ended.stdout


def processes_with(word: str) -> list[int]:
    """Of which a command line names this."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass  # it has just ended
    return found


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_schedule_that_fails_is_named_with_its_run_and_the_command_that_repeats_it(folder: Path) -> None:
    """A limit in which no run can end."""
    proof = Proof(folder, 5)
    proof.undisturbed()
    short = Proof(folder, 4, replace(DEADLINES, drill_run_s=3.0))
    (rehearsal,) = short.rehearse(1)
    assert rehearsal.is_hung and not rehearsal.is_good and not rehearsal.left
    assert Path(rehearsal.evidence, "job.yaml").exists() or Path(rehearsal.evidence).with_suffix(".yaml").exists()
    assert rehearsal.again == f"dougong drill --seed 4 --schedule 1 --folder {folder}"
    assert short.summary(1).failed == ("4/1",)
    ended = subprocess.run(
        [sys.executable, "-m", *rehearsal.again.split()], capture_output=True, text=True, timeout=400, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert Proof(folder, 4).summary(1).is_good and not Path(rehearsal.evidence).exists()


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.timeout(3000)
def test_a_schedule_on_hosts_of_a_lab_does(folder: Path) -> None:
    """What Ray has on a host dies; a host is gone at once."""
    assert_good(Proof(folder, 3, has_lab=True), 2)
