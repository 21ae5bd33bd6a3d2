"""Out of memory in a control group: the kernel kills the one that is meant, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.testing import LabError, MemoryGroup

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_the_kernel_kills_whom_it_should() -> None:
    words = [sys.executable, "-c", "import time; time.sleep(100)"]
    victim, other = subprocess.Popen(words), subprocess.Popen(words)
    try:
        with MemoryGroup() as group:
            group.adopt([victim.pid, other.pid])
            group.exhaust(victim.pid, megabytes=32)
            assert victim.wait(60) == -signal.SIGKILL
            assert other.poll() is None
        assert not group.path.exists()
    except LabError as error:
        pytest.fail(f"this machine has no control groups of memory: {error}")
    finally:
        for process in (victim, other):
            process.kill()
            process.wait()


def test_files_that_the_kernel_keeps_for_the_group_do_not_save_it(tmp_path: Path) -> None:
    """Of a machine that was just started a run's libraries are among them, hundreds of megabytes."""
    program = "import sys, time; open(sys.argv[1], 'wb').write(bytes(160 << 20)); print(flush=True); time.sleep(100)"
    with MemoryGroup() as group:
        victim = subprocess.Popen(
            [
                "bash",
                "-c",
                f'echo $$ > {group.path}/cgroup.procs; exec {sys.executable} -c "$0" $1',
                program,
                tmp_path / "file",
            ],
            stdout=subprocess.PIPE,
        )
        try:
            assert victim.stdout is not None and victim.stdout.readline()
            group.exhaust(victim.pid, megabytes=32)
            assert victim.wait(60) == -signal.SIGKILL
        finally:
            victim.kill()
            victim.communicate()
