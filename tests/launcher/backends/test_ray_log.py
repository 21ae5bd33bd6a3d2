"""What Ray prints by itself goes to the run's log, what we print to the console."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dougong.control.environment import child_environment
from dougong.launcher.backends.ray_log import logging_into

ROOT = Path(__file__).parents[3]
WORKER: Any = importlib.import_module("ray._private.worker")
CODE = """
import os, sys
from pathlib import Path
from dougong.launcher.backends.ray_log import raw_lines_into
with raw_lines_into(Path(sys.argv[1])):
    os.write(2, b"a raw line\\n")
    print("python's", file=sys.stderr)
    os.system("echo of a child >&2")
os.write(2, b"afterwards\\n")
print("python's again", file=sys.stderr)
"""


@pytest.mark.parametrize("exists", [True, False])
def test_raw_lines_go_to_the_log_and_pythons_to_the_console(tmp_path: Path, exists: bool) -> None:
    log = tmp_path / "logs" / "ray.log"
    if not exists:
        (tmp_path / "logs").write_text("no folder: the log cannot be written")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(log)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kept = ["python's", "afterwards", "python's again"]
    if exists:
        assert log.read_text().splitlines() == ["a raw line", "of a child"]
        assert done.stderr.splitlines() == kept
    else:
        assert done.stderr.splitlines() == ["a raw line", "python's", "of a child", "afterwards", "python's again"]


def test_what_ray_tells_pythons_logging_goes_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, logger = tmp_path / "logs" / "ray.log", logging.getLogger("ray")
    handlers, level = list(logger.handlers), logger.level
    with logging_into(log):
        logging.getLogger("ray._private.worker").warning("a word of its own")
    with logging_into(None):
        logging.getLogger("ray._private.worker").warning("another")
    assert log.read_text().endswith("-- a word of its own\n")
    assert capsys.readouterr().err == ""
    assert (logger.handlers, logger.level) == (handlers, level)


def test_what_a_cluster_tells_its_drivers_goes_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, told = tmp_path / "logs" / "ray.log", {"pid": "raylet", "is_err": False}
    with logging_into(log):
        WORKER.print_to_stdstream({**told, "lines": ["The node has been marked dead"]}, ignore_prefix=False)
    assert log.read_text().endswith("-- (raylet) The node has been marked dead\n")
    assert capsys.readouterr() == ("", "")
    WORKER.print_to_stdstream({**told, "lines": ["another"]}, ignore_prefix=False)
    assert "another" in capsys.readouterr().out


TOLD = """
import sys, time
from pathlib import Path
from dougong.launcher.backends.ray_cluster import RayBackend
from dougong.records.directory import RunDir
run_dir = RunDir(Path(sys.argv[1]))
log = run_dir.logs / "ray.log"
backend = RayBackend(run_dir=run_dir)
backend.open()
import ray
from ray._private.utils import publish_error_to_driver
publish_error_to_driver("node_died", "a node has been marked dead", ray._private.worker.global_worker.gcs_client)
while "marked dead" not in log.read_text():
    time.sleep(0.1)
backend.close()
"""


@pytest.mark.slow
def test_what_a_living_ray_tells_its_drivers_goes_to_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOLD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=child_environment({}), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "-- (raylet) a node has been marked dead" in (tmp_path / "logs" / "ray.log").read_text()
