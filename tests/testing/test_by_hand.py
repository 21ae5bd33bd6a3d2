"""A lab by hand, with the commands of docs/lab.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.launcher.toyrun import ROOT

PAGE = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
ME = "python -m dougong.testing"


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def lab_command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call(["-m", "dougong.testing", *words], folder)


def commands() -> list[list[str]]:
    """The page's commands, as words behind `python`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert all(line.startswith("python ") for line in lines), lines
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.lab
def test_the_page_s_commands_do_what_it_says(tmp_path: Path) -> None:
    said = {}
    for words in commands():
        if "--ray" in words:
            words = [word for word in words if word != "--ray"]  # the test below has Ray
        done = call(words, tmp_path)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        said.setdefault(words[2], []).append(done.stdout)
    assert {"up", "exec", "list", "down"} <= set(said)
    assert f"{ME} exec node0 -- bash" in said["up"][0] and f"{ME} down" in said["up"][0]
    assert "node1\n" in said["exec"]
    assert "node0 10.0.0.1, node1 10.0.0.2, node2 10.0.0.3" in said["list"][0]
    assert not list(tmp_path.glob("dougong-lab-*"))


@pytest.mark.lab
def test_several_labs_are_told_apart_by_name(tmp_path: Path) -> None:
    none = lab_command(tmp_path, "down")
    assert (none.returncode, none.stderr) == (1, f"error: no lab is up; `{ME} up 3` makes one\n")
    names = [lab_command(tmp_path, "up", "1").stdout.split()[1].rstrip(":") for _ in range(2)]
    several = lab_command(tmp_path, "exec", "node0", "--", "hostname")
    assert several.returncode == 1 and "add --lab NAME" in several.stderr and names[0] in several.stderr
    done = lab_command(tmp_path, "exec", "--lab", names[0], "node0", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    wrong = lab_command(tmp_path, "exec", "--lab", names[0], "node7", "--", "true")
    assert f"lab {names[0]} has no host node7, only node0" in wrong.stderr
    assert "no lab nobody is up; those that are: " in lab_command(tmp_path, "down", "--lab", "nobody").stderr
    for name in names:
        assert lab_command(tmp_path, "down", "--lab", name).returncode == 0
    assert lab_command(tmp_path, "list").stdout == ""


@pytest.mark.lab
@pytest.mark.slow
def test_a_lab_with_ray_by_hand(tmp_path: Path) -> None:
    up = lab_command(tmp_path, "up", "2", "--ray")
    try:
        assert "Ray: --address 10.0.0.1:6379" in up.stdout, up.stderr
        status = lab_command(tmp_path, "exec", "node1", "--", "ray", "status")
        assert status.stdout.count(" 1 node_") == 2, status.stdout + status.stderr
    finally:
        assert lab_command(tmp_path, "down").returncode == 0
