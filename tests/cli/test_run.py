"""`dougong run` and `resume` before anything starts; tests/launcher/test_run.py starts runs."""

from __future__ import annotations

import pytest
from dougong.cli.run import launch_options
from dougong.errors import LaunchError
from dougong.launcher.run import Options


def test_where_a_run_is_started() -> None:
    assert launch_options(None, no_ray=False) == Options(None, ray=True)
    assert launch_options("10.0.0.1:6379", no_ray=False) == Options("10.0.0.1:6379", ray=True)
    assert launch_options(None, no_ray=True) == Options(None, ray=False)
    with pytest.raises(LaunchError, match="--address and --no-ray"):
        launch_options("auto", no_ray=True)
