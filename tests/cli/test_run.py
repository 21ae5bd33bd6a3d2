"""`dougong run` and `resume` before anything starts; tests/launcher/test_run.py starts runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.cli.main import main
from dougong.cli.run import launch_options
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import OWN_RAY, joining
from dougong.launcher.run import Options

ROOT = Path(__file__).parents[2]
HERE = Path("runs/a")


def test_where_a_run_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert launch_options(None, False, HERE) == Options(OWN_RAY) == launch_options("local", False, HERE)
    assert launch_options("10.0.0.1:6379", False, HERE) == Options(joining("10.0.0.1:6379"))
    assert launch_options(None, True, HERE) == Options(ray=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert launch_options(None, False, HERE).choice.address == "10.0.0.1:6379"
    assert launch_options(None, True, HERE) == Options(ray=False)
    with pytest.raises(LaunchError, match="--address and --no-ray"):
        launch_options("auto", True, HERE)


@pytest.mark.parametrize(
    "words", [["run", "JOB"], ["resume", "RUN"], ["start", "JOB", "--run-dir", "RUN"]], ids=lambda words: words[0]
)
def test_every_command_that_trains_can_be_told_how_long_to_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    names = {"JOB": str(ROOT / "examples" / "quickstart.yaml"), "RUN": str(tmp_path / "run")}
    command = [names.get(word, word) for word in words]
    with pytest.raises(SystemExit) as helped:
        main([command[0], "--help"])
    assert helped.value.code == 0 and "--wait" in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        main([*command, "--wait", "3", "--no-ray"])
    assert refused.value.code == 2
    assert capsys.readouterr().err.startswith("--wait and --no-ray: on one machine nobody else is waited for")
    with pytest.raises(SystemExit) as wrong:
        main([*command, "--wait", "-1"])
    assert wrong.value.code == 2 and "--wait" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_wait_that_is_typed_goes_before_the_jobs_limits() -> None:
    limits = launch_options(None, False, HERE, 3.0).limits(DEADLINES)
    assert (limits.room_s, limits.nodes_join_s) == (3.0, 3.0)
