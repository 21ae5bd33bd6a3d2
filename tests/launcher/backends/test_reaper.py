"""What is guarded ends with the process that asked for it, also with one that has no time to say goodbye."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.reaper import ended_with_us
from tests.launcher.toyrun import ROOT


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's to wait for but the test's."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait(10)


def test_the_end_of_the_context_ends_them(stranger: subprocess.Popen[bytes], tmp_path: Path) -> None:
    folder = tmp_path / "of-their-ray"
    (folder / "session").mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    with ended_with_us([gone.pid, stranger.pid], DEADLINES, folder):
        assert stranger.poll() is None
    assert stranger.wait(10) == -signal.SIGKILL
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_process_ends_them(stranger: subprocess.Popen[bytes], number: signal.Signals) -> None:
    script = (
        "import sys, time\n"
        "from dougong.deadlines import DEADLINES\n"
        "from dougong.launcher.backends.reaper import ended_with_us\n"
        "with ended_with_us([int(sys.argv[1])], DEADLINES):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(100)\n"
    )
    command = [sys.executable, "-c", script, str(stranger.pid)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"ready\n"
    assert stranger.poll() is None
    driver.send_signal(number)
    assert driver.wait(10) == -number
    assert stranger.wait(10) == -signal.SIGKILL
