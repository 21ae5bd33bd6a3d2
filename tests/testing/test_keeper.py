"""The keeper of a lab's namespaces: its end, even by SIGKILL, is theirs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.launcher.toyrun import ROOT, wait_for

pytestmark = pytest.mark.lab


def keep(folder: Path, how: str, path: str = os.environ["PATH"]) -> tuple[subprocess.Popen[str], int]:
    folder.mkdir()
    keeper = subprocess.Popen(
        [sys.executable, "-m", "dougong.testing.keeper", str(folder), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        text=True,
    )
    assert keeper.stdout is not None
    first = int(keeper.stdout.readline())
    return keeper, first


@pytest.mark.parametrize("how", ["watched", "alone"])
def test_sigterm_ends_all_and_removes_the_folder(tmp_path: Path, how: str) -> None:
    keeper, first = keep(tmp_path / "lab", how)
    assert os.readlink(f"/proc/{first}/ns/net") != os.readlink("/proc/self/ns/net")
    keeper.terminate()
    assert keeper.wait(20) == 0
    assert not psutil.pid_exists(first)
    assert not (tmp_path / "lab").exists()


def test_sigterm_that_comes_before_the_namespaces_stand_is_not_lost(tmp_path: Path) -> None:
    real = shutil.which("unshare")
    signals_first = tmp_path / "unshare"
    signals_first.write_text(f'#!/bin/sh\nkill -TERM $PPID\nsleep 0.2\nexec {real} "$@"\n')
    signals_first.chmod(0o755)
    keeper, first = keep(tmp_path / "lab", "alone", path=f"{tmp_path}:{os.environ['PATH']}")
    assert keeper.wait(20) == 0
    assert not psutil.pid_exists(first)
    assert not (tmp_path / "lab").exists()


def test_the_end_of_the_pipe_ends_a_watched_one_alone(tmp_path: Path) -> None:
    watched, _ = keep(tmp_path / "watched", "watched")
    alone, first = keep(tmp_path / "alone", "alone")
    for keeper in (watched, alone):
        assert keeper.stdin is not None
        keeper.stdin.close()
    assert watched.wait(20) == 0
    assert not (tmp_path / "watched").exists()
    assert alone.poll() is None and psutil.pid_exists(first)
    alone.terminate()
    assert alone.wait(20) == 0


def test_a_keeper_that_is_killed_takes_the_namespaces_along(tmp_path: Path) -> None:
    keeper, first = keep(tmp_path / "lab", "watched")
    inside = subprocess.Popen(["nsenter", "--target", str(first), "--pid", "--net", "sleep", "100"])
    wait_for(lambda: bool(psutil.Process(inside.pid).children()), "the command inside", 20)
    keeper.kill()
    assert keeper.wait(20) == -signal.SIGKILL
    assert inside.wait(20) == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(first), "the first process's end", 20)
