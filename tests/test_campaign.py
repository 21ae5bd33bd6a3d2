"""Each row of the vocabulary once: who failed, and in which way, is named as the table says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.kept import KeptLines
from dougong.job.drills.vocabulary import FAULTS

ROOT = Path(__file__).resolve().parent.parent


def campaign(folder: Path, place: str, timeout_s: float) -> None:
    """Its exit status is 1 when fewer than 99 of 100 are right: of one turn, all have to be."""
    words = [sys.executable, "benchmarks/campaign.py", "--times", "1", "--only", place, "--folder", str(folder)]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_happens_to_processes_is_named(tmp_path: Path) -> None:
    campaign(tmp_path, "here", 1700)


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.timeout(1200)
def test_what_happens_to_storage_is_named_and_ends_nothing(tmp_path: Path) -> None:
    campaign(tmp_path, "disk", 1100)


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.timeout(1800)
def test_what_happens_to_machines_and_cables_is_named(tmp_path: Path) -> None:
    campaign(tmp_path, "hosts", 1700)


def test_what_has_been_done_is_counted_and_what_is_wrong_is_told(tmp_path: Path) -> None:
    line = {"fault": "kill", "place": "here", "worker": "both/0", "load": 1.0,
            "told": [{"kind": "hang", "culprit": "experts/0"}]}  # fmt: skip
    file = tmp_path / "campaign.jsonl"
    file.write_text(json.dumps(line | {"seed": "1/kill/2", "ok": True, "code": "of another software"}) + "\n")
    words = [sys.executable, "benchmarks/campaign.py", "--most", "0", "--folder", str(tmp_path)]
    for number, status in ((0, 0), (1, 1)):
        KeptLines(file).add(line | {"seed": f"1/kill/{number}", "ok": status == 0})
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode == status, ended.stderr
    rows = len(FAULTS)
    assert f"2 of {3 * rows} injections, 1 of {rows} rows, 1 right (50.0 %)" in ended.stdout
    assert "wrong: 1/kill/1 on both/0: hang of experts/0" in ended.stdout
    assert "1 lines are of another software" in ended.stdout
