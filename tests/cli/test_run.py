"""`dougong run` and `resume` before anything starts; tests/launcher/test_run.py starts runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.cli.run import launch_options
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import OWN_RAY, joining
from dougong.launcher.run import Options

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
