"""What is found out about a Ray cluster's head before it is joined."""

from __future__ import annotations

import dataclasses
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ray
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_head import find_head, refuse_skew

SOON = dataclasses.replace(DEADLINES, address_probe_s=0.5)
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """A machine that takes a connection and says this, nothing where it is None, then waits for the other's end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line, suppress(OSError):
                line.recv(1 << 10)
                if answer is not None:
                    line.sendall(answer)
                line.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*server.getsockname())
        thread.join()


def test_one_that_speaks_grpc_is_taken_for_a_head() -> None:
    with listener(SETTINGS) as address:
        find_head(address, SOON)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH"])
def test_another_server_or_a_silent_one_is_told_in_seconds(answer: bytes | None) -> None:
    with listener(answer) as address, pytest.raises(LaunchError, match="listens there that is no head of Ray"):
        find_head(address, SOON)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LaunchError, match=rf"nobody answers \(.*refused\).*ray start --head --port={port}"):
        find_head(f"127.0.0.1:{port}", SOON)


def test_versions_must_be_ours() -> None:
    refuse_skew("a:1", {"ray_version": ray.__version__, "python_version": platform.python_version()})
    refuse_skew("a:1", {})
    with pytest.raises(LaunchError) as caught:
        refuse_skew("a:1", {"ray_version": "2.1.0", "python_version": platform.python_version()})
    python = platform.python_version()
    assert str(caught.value) == (
        f"--address a:1: the cluster runs Ray 2.1.0 on Python {python}, this command Ray {ray.__version__} on Python "
        f"{python}; Ray joins its own versions only: start one of the two from the other's environment"
    )


CODE = """
import os, sys
from pathlib import Path
from dougong.launcher.backends.ray_head import raw_lines_into
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
