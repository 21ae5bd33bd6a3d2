"""One writer for a run directory; the lock ends with the process, whatever ends it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.errors import LaunchError, StorageError
from dougong.records.run_lock import is_locked, read_holder, take_lock

HOLD = """
import sys, time
from pathlib import Path
from dougong.records.run_lock import take_lock
lock = take_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    assert is_locked(tmp_path) is None  # nobody has ever held it: nothing is known
    with take_lock(tmp_path) as lock:
        assert lock.is_exclusive
        assert is_locked(tmp_path)
        me = f"process {os.getpid()} on {socket.gethostname()}"
        assert read_holder(tmp_path) == me
        with pytest.raises(LaunchError, match=rf"is alive \(controller {me}\); `dougong stop"):
            take_lock(tmp_path)
    assert is_locked(tmp_path) is False
    with take_lock(tmp_path):
        assert is_locked(tmp_path)


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        assert read_holder(tmp_path) == f"process {holder.pid} on {socket.gethostname()}"
    finally:
        holder.kill()
        holder.wait(20)
    assert is_locked(tmp_path) is False
    take_lock(tmp_path).release()


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"controller\.lock: cannot be written: No such file or directory"):
        take_lock(tmp_path / "gone")
    (tmp_path / "controller.lock").write_text("not JSON")
    assert read_holder(tmp_path) == "of an unknown process"
