"""`dougong check` and `dougong schema` as a person types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.accelerators.base import HOST_VARIABLES
from tests.launcher.jobs import QUICKSTART, ROOT, write


def dougong(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Without what this shell says of the math libraries: `check` remarks on it."""
    command = [sys.executable, "-m", "dougong", *map(str, words)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(HOST_VARIABLES)}
    environment = plain | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_what_the_shell_says_of_arithmetic_is_a_line_each() -> None:
    done = dougong("check", "examples/quickstart.yaml", OMP_PROC_BIND="close")
    assert done.returncode == 0 and "good: quickstart" in done.stdout
    assert "OMP_PROC_BIND=close is set here and can change bits of cpu workers" in done.stdout


def test_a_cache_that_takes_nothing_is_told() -> None:
    done = dougong("check", "examples/quickstart.yaml", "-o", "cache=/proc/x")
    assert done.returncode == 0 and "\nwarning: /proc/x: the cache cannot be written: /proc" in done.stdout
    assert "; name another folder: `cache: FOLDER` in the job file" in done.stdout


def test_a_good_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    done = dougong("check", "examples/quickstart.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "examples/quickstart.yaml: good: quickstart: qwen3_moe, 60 steps of 16 sequences x 256 tokens, workers: "
        "2 on east "
        "(cpu)\n"
    )


def test_every_mistake_on_stderr(tmp_path: Path) -> None:
    path = write(tmp_path, steps="x", batch="{lanez: 2}")
    done = dougong("check", path, "-o", "seed=y", "--print")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["batch.lanez", "steps", "seed"]
    assert done.stderr.startswith(f"{path}:4:9: batch.lanez: unknown key; did you mean 'lanes'?\n")


def test_print_gives_a_job_file_with_origins(tmp_path: Path) -> None:
    done = dougong("check", QUICKSTART, "--print", "--override", "batch.lanes=8")
    assert done.returncode == 0
    assert re.search(r"^  lanes: 8 +# -o batch\.lanes=8$", done.stdout, re.MULTILINE)
    assert re.search(r"^seed: 1234 +# .*quickstart\.yaml:19$", done.stdout, re.MULTILINE)
    assert re.search(r"^  eps: 1\.0e-08 +# default$", done.stdout, re.MULTILINE)
    again = tmp_path / "again.yaml"
    again.write_text(done.stdout)
    assert dougong("check", again).returncode == 0


def test_check_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dougong.cli.main import main\n"
        "try: main(['check', 'examples/quickstart.yaml', '--print'])\n"
        "except SystemExit as end: print('\\n', end.code, *{'torch', 'ray', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1].split() == ["0"], done.stdout + done.stderr


def test_schema() -> None:
    done = dougong("schema")
    assert done.returncode == 0 and json.loads(done.stdout)["title"] == "dougong job file"
