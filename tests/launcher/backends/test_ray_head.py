"""What is found out about a Ray cluster's head before it is joined."""

from __future__ import annotations

import dataclasses
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ray
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.backends.ray_choice import RayChoice, joining
from dougong.launcher.backends.ray_head import check_head, find_head, open_words, refuse_missing_token, refuse_skew
from tests.launcher.backends.test_ray_cluster import end_groups, start_node
from tests.launcher.toyrun import ROOT, wait_for

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
        find_head(joining(address), SOON)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH"])
def test_another_server_or_a_silent_one_is_told_in_seconds(answer: bytes | None) -> None:
    with listener(answer) as address, pytest.raises(LaunchError, match="listens there that is no head of Ray"):
        find_head(joining(address), SOON)


def test_a_head_that_hangs_later_is_told_in_seconds() -> None:
    """It takes connections and speaks gRPC, and answers no question: Ray's own client asks for half a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = server.accept()
                    lines.append(line)
                    line.sendall(SETTINGS)

        thread = threading.Thread(target=serve)
        thread.start()
        address = "{}:{}".format(*server.getsockname())
        find_head(joining(address), SOON)
        with pytest.raises(LaunchError, match=r"the head does not answer \(waited 0.5 s\); see `ray status` there"):
            check_head(joining(address), SOON)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for line in lines:
            line.close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LaunchError, match=rf"nobody answers \(.*refused\).*ray start --head --port={port}"):
        find_head(joining(f"127.0.0.1:{port}"), SOON)


def test_a_token_that_is_asked_for_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(LaunchError, match="--address 10.0.0.1:6379: RAY_AUTH_MODE=token is set, and there is no token"):
        refuse_missing_token(joining("10.0.0.1:6379"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    refuse_missing_token(joining("10.0.0.1:6379"))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_AUTH_MODE")
    refuse_missing_token(joining("10.0.0.1:6379"))


def test_versions_must_be_ours() -> None:
    refuse_skew(joining("a:1"), {"ray_version": ray.__version__, "python_version": platform.python_version()})
    refuse_skew(joining("a:1"), {})
    with pytest.raises(LaunchError) as caught:
        refuse_skew(joining("a:1"), {"ray_version": "2.1.0", "python_version": platform.python_version()})
    python = platform.python_version()
    assert str(caught.value) == (
        f"--address a:1: the cluster runs Ray 2.1.0 on Python {python}, this command Ray {ray.__version__} on Python "
        f"{python}; Ray joins its own versions only: start one of the two from the other's environment"
    )


def test_who_was_sent_there_by_ray_address_is_told_how_to_do_without() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    choice = RayChoice(address, f"RAY_ADDRESS={address}", is_typed=False)
    with pytest.raises(LaunchError, match=r"^RAY_ADDRESS=127.*nobody answers.*, or `--address local` for a Ray of"):
        find_head(choice, SOON)


def test_a_server_that_says_a_little_at_a_time_is_not_waited_for() -> None:
    """Each byte comes in time, the answer never."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line, suppress(OSError):
                while True:
                    line.sendall(b"\0")
                    time.sleep(0.3)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(LaunchError, match="or that hangs"):
            find_head(joining("{}:{}".format(*server.getsockname())), SOON)
        thread.join()


ASK = """
import sys
from dougong.control.environment import ray_variables, temporary_variables
from dougong.deadlines import DEADLINES
from dougong.launcher.backends.ray_choice import joining
from dougong.launcher.backends.ray_head import check_head, is_open
choice = joining(sys.argv[1])
with temporary_variables(ray_variables(embedded=False)):
    check_head(choice, DEADLINES)
    print(is_open(choice, DEADLINES))
    check_head(choice, DEADLINES)
"""


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("head", "ours", "answer"),
    [
        pytest.param("", "", "True", marks=pytest.mark.slow),
        ("", "f" * 64, "True"),
        pytest.param("e" * 64, "e" * 64, "False", marks=pytest.mark.slow),
    ],
)
def test_a_cluster_that_asks_nobody_for_a_token_is_known(head: str, ours: str, answer: str, tmp_path: Path) -> None:
    """Also by who has a token; and the token that is his stays what it was."""
    mark = {"DOUGONG_TEST_CLUSTER": secrets.token_hex(8), "HOME": str(tmp_path)}
    bare = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | mark
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head} if head else {"RAY_AUTH_MODE": "disabled"}
    short = Path("/tmp") / f"dg{secrets.token_hex(3)}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=1", f"--temp-dir={short}"]
    node = start_node(words, bare | token, tmp_path / "head.out")
    try:
        wait_for(lambda: "ray start" in (tmp_path / "head.out").read_text(), "the head", 90)
        known = bare | ({"RAY_AUTH_TOKEN": ours} if ours else {}) | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ASK, f"127.0.0.1:{port}"]
        done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == f"{answer}\n", done.stderr
    finally:
        end_groups([node])
        shutil.rmtree(short, ignore_errors=True)


def test_a_cluster_without_a_token_is_told_with_the_ways_out() -> None:
    words = open_words(joining("10.0.0.1:6379"))
    assert words.startswith("--address 10.0.0.1:6379: this Ray cluster asks nobody for a token")
    assert "RAY_AUTH_MODE=token" in words and words.endswith("or say --allow-open-cluster")
