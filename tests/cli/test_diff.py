"""`dougong diff` as a person types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from dougong.cli.diff import diff
from dougong.cli.main import main
from dougong.records.directory import RunDir
from tests.checkpoint.saving import save, tiny_model
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("qwen3_moe", num_hidden_layers=1)


@pytest.fixture
def run(model: Any, tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    run.write_job("job: test\n")
    run.append_metrics({"generation": 1, "step": 1, "loss": 3.0})
    save(run.checkpoints, model, step=20)
    return run


def dougong_diff(*words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(diff)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_diff_has_three_answers(run: RunDir, model: Any, tmp_path: Path) -> None:
    a, b = run.checkpoints / "step-000020", save(tmp_path / "b", model, num_workers=3)
    for words in ((a, b), (a, b, "--quick"), (run.path, run.path)):
        result = dougong_diff(*words)
        assert result.exit_code == 0, result.output
        assert "equal, bit by bit" in result.output
    other = save(tmp_path / "c", tiny_model("qwen3_moe", seed=1, num_hidden_layers=1))
    result = dougong_diff(a, other, "--limit", "2")
    assert result.exit_code == 1
    assert "step 20: lm_head.weight: 16384 of 16384 elements differ" in result.output
    assert " more" in result.output.splitlines()[-1]
    result = dougong_diff(a, tmp_path / "missing")
    assert result.exit_code == 2
    assert "dougong diff: " in result.output


def test_options_that_say_nothing_of_folders_are_told(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    tiny_model("qwen3_moe", seed=1, num_hidden_layers=1).save_pretrained(tmp_path / "b")
    result = dougong_diff(tmp_path / "a", tmp_path / "b", "--trace", "--quick", "--strict")
    assert (result.exit_code, result.stderr.splitlines()) == (
        1,
        [
            "note: --trace: is for two runs, and nothing was done by it",
            "note: --strict: is for two runs, and nothing was done by it",
            "note: --quick: is for two checkpoints or runs, and nothing was done by it",
        ],
    )
    assert not dougong_diff(tmp_path / "a", tmp_path / "a").stderr


def test_unequal_length_is_a_difference_where_it_is_asked_for(run: RunDir, tmp_path: Path) -> None:
    longer = RunDir.create(tmp_path / "longer")
    longer.write_job("job: test\n")
    for step in (1, 2):
        longer.append_metrics({"generation": 1, "step": step, "loss": 3.0})
    for words, status in (((), 0), (("--strict",), 1), (("--strict", "--trace"), 1)):
        result = dougong_diff(longer.path, run.path, *words)
        assert (result.exit_code, result.output.splitlines()[0]) == (status, "equal on step 1; A goes on to 2")


@pytest.mark.parametrize("row", ['{"loss": 1.0}', '{"step": "x"}', "{"])
def test_a_damaged_row_is_an_error_and_no_difference(run: RunDir, row: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 would say that the runs differ."""
    with run.metrics_file.open("a") as file:
        file.write(row + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["diff", str(run.path), str(run.path)])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(f"dougong diff: {run.metrics_file}:2: not ") and said.err.count("\n") == 1
