"""What Ray prints by itself goes to the run's log, what we print to the console."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.launcher.backends.ray_log import logging_into

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
