"""What is left of a run is found, and nobody else's things are."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from dougong.control.environment import child_environment
from dougong.tools.drill.leftovers import MARK, left_behind, marked_processes, namespaces_of, shared_memory


def test_a_process_is_known_by_its_mark(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(100)"]
    process = subprocess.Popen(words, env=child_environment({MARK: "abc"}), stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert list(marked_processes("abc")) == [process.pid] and marked_processes("abd") == {}
    assert [one.split(":")[0] for one in left_behind("abc", tmp_path, shared_memory())] == [f"process {process.pid}"]
    assert namespaces_of([process.pid]) == frozenset(), "it lives where we do"
    process.kill()
    process.communicate()
    assert left_behind("abc", tmp_path, shared_memory()) == []


def test_a_socket_file_and_shared_memory_are_left(tmp_path: Path) -> None:
    before = shared_memory()
    made = Path("/dev/shm/dougong-test-left")
    made.touch()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "s"))
            left = left_behind("none", tmp_path, before)
        assert left == [f"socket {tmp_path / 's'}", "shared memory dougong-test-left"]
    finally:
        made.unlink()
