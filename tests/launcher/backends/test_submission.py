"""A command as a submitted job: it runs elsewhere, and must mean the same there."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.launcher.backends.submission import submission

DASHBOARD = "http://10.0.0.1:8265"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").touch()
    (tmp_path / "runs" / "a").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("dougong run job.yaml --address a:1", "dougong run {here}/job.yaml --run-dir {here}/runs/new"),
        ("dougong run --address=a:1 job.yaml --run-dir b", "dougong run {here}/job.yaml --run-dir {here}/b"),
        ("dougong start job.yaml --run-dir=b", "dougong start {here}/job.yaml --run-dir={here}/b"),
        ("dougong resume runs/a --address a:1", "dougong resume {here}/runs/a"),
        ("__main__.py run job.yaml --run-dir runs/a", "python -m dougong run {here}/job.yaml --run-dir {here}/runs/a"),
        ("dougong calibrate job.yaml -o a=4", "dougong calibrate {here}/job.yaml -o a=4 --run-dir {here}/runs/new"),
    ],
)  # fmt: skip
def test_files_are_found_from_anywhere_and_the_cluster_by_itself(here: Path, command: str, words: str) -> None:
    told = submission(DASHBOARD, Path("runs/new"), command.split())
    assert told == f"ray job submit --address {DASHBOARD} -- {words.format(here=here)}"


def test_a_run_directory_that_does_not_exist_yet_is_named_from_anywhere(here: Path) -> None:
    told = submission(DASHBOARD, None, ["dougong", "run", "job.yaml", "--run-dir", "new"])
    assert told.endswith(f"--run-dir {here}/new")
