"""`dougong drill` before anything runs; tests/tools/drill runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click.testing import Result
from dougong.cli.drill import drill
from dougong.errors import JobError, PlaceError
from dougong.job.drills.vocabulary import FAULTS
from typer.testing import CliRunner


def dougong_drill(*words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(drill)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


def test_the_vocabulary_is_printed() -> None:
    printed = dougong_drill("--list").output
    assert all(fault.name in printed for fault in FAULTS)


def test_a_dry_run_says_what_would_come(tmp_path: Path) -> None:
    words = ("--seed", "7", "--count", "3", "--dry-run", "--folder", tmp_path)
    printed = dougong_drill(*words).output
    assert [line.split(":")[0] for line in printed.splitlines()] == ["7/1", "7/2", "7/3"]
    assert printed == dougong_drill(*words).output and not list(tmp_path.glob("run-*"))


@pytest.mark.parametrize("words", [("--fault", "stop"), ("--on", "east/1"), ("--fault", "stop", "--on", "east/1")])
def test_a_fault_needs_a_run_and_a_worker(words: tuple[str, ...]) -> None:
    assert isinstance(dougong_drill(*words).exception, JobError)


def test_what_is_for_the_small_job_is_refused_with_a_run(tmp_path: Path) -> None:
    for words in (("--control",), ("--schedule", "3"), ("--lab",)):
        assert "leave RUN_DIR out" in str(dougong_drill(tmp_path, *words).exception), words


def test_one_schedule_is_the_one_of_its_number(tmp_path: Path) -> None:
    words = ("--seed", "7", "--dry-run", "--folder", tmp_path)
    assert (
        dougong_drill(*words, "--schedule", "3").output
        == dougong_drill(*words, "--count", "3").output.splitlines(True)[-1]
    )


def test_a_dry_run_leaves_nothing(tmp_path: Path) -> None:
    assert dougong_drill("--dry-run", "--folder", tmp_path / "none").exit_code == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["/proc/none", "file", "file/under"])
@pytest.mark.parametrize("words", [(), ("--control",)])
def test_a_folder_that_cannot_be_is_refused_before_anything_runs(
    place: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    told = dougong_drill(*words, "--folder", tmp_path / place).exception
    assert isinstance(told, PlaceError) and str(told).startswith(f"--folder {tmp_path / place}: ")


def test_one_schedule_takes_no_count() -> None:
    assert str(dougong_drill("--schedule", "5", "--count", "2").exception).endswith("leave --count 2 out")
