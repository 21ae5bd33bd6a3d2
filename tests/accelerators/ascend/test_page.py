"""Commands of docs/ascend.md that need no card are run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "ascend.md").read_text(encoding="utf-8")


def commands(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for named, text in fenced if named == language for line in text.splitlines()]
    return [line for line in lines if line.startswith("dougong ")]


def dougong(command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "dougong", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("command", commands("sh"))
def test_a_command_for_any_machine(command: str) -> None:
    ended = dougong(command)
    assert ended.returncode == 0, ended.stderr
    if command.startswith("dougong plan"):
        assert "HCCL_DETERMINISTIC=true" in ended.stdout
        assert "island east needs 2 npu devices, and this machine has 0" in ended.stdout


def test_there_are_such_commands() -> None:
    assert {command.split()[1] for command in commands("sh")} == {"check", "plan"}


@pytest.mark.parametrize("command", commands(""))
def test_a_command_for_machines_with_cards_is_one_of_dougong_s(command: str) -> None:
    assert command.split()[1] in {"conform", *(known.name for known in COMMANDS)}
