"""The key of a run is made once, and missed when it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.errors import CheckpointError
from dougong.launcher.signing.key_of_run import OWN_KEY, key_of_run


def test_a_run_makes_its_own_key_once_and_misses_it_when_it_is_gone(tmp_path: Path) -> None:
    assert key_of_run(tmp_path, None, is_new=True) is None
    made = key_of_run(tmp_path, "run", is_new=True)
    assert made is not None
    assert made.path == tmp_path / OWN_KEY
    assert key_of_run(tmp_path, "run", is_new=True) == key_of_run(tmp_path, "run", is_new=False) == made
    assert key_of_run(tmp_path, str(made.path), is_new=False) == made
    made.path.unlink()
    with pytest.raises(
        CheckpointError, match=f"is gone; put it back, or .*`dougong resume {tmp_path} -o checkpoint.sign=null`"
    ):
        key_of_run(tmp_path, "run", is_new=False)


def test_a_runs_own_key_asks_of_its_folder_alone(tmp_path: Path) -> None:
    """Who may write the run's directory can take the key out of the job; a run's start warns of that."""
    made = key_of_run(tmp_path, "run", is_new=True)
    assert made is not None
    tmp_path.chmod(0o777)
    assert key_of_run(tmp_path, "run", is_new=False) == made
    made.path.parent.chmod(0o777)
    with pytest.raises(CheckpointError, match=f"they may write in {made.path.parent} "):
        key_of_run(tmp_path, "run", is_new=False)
