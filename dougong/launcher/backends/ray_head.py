"""A look at a Ray cluster's head before it is joined: whether one answers, whether it takes our
token, whether it is of our versions. Each is one sentence with its remedy.

Ray itself tries for half a minute, says what is wrong in its own log's lines, and then that it has
failed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dougong.control.environment import ray_has_token
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError

# How a client of HTTP/2, and so of gRPC, begins: the preface and an empty frame of settings
# (RFC 9113, sections 3.4, 4.1 and 6.5). A server's first frame is its settings too.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEAD_BYTES = 9
_TYPE_AT, _SETTINGS = 3, 4


def find_head(address: str, deadlines: Deadlines) -> None:
    """LaunchError, in seconds, when no head of a Ray cluster answers at HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        raise LaunchError(
            f"--address {address}: not HOST:PORT; `ray start --head` prints it, or use `auto`"
        )
    limit_s = deadlines.address_probe_s
    try:
        with socket.create_connection((host, int(port)), timeout=limit_s) as line:
            is_head = _speaks_grpc(line)
    except OSError as error:
        raise LaunchError(
            f"--address {address}: nobody answers ({error}); on that machine type "
            f"`ray start --head --port={port}`, and see that a firewall lets it through"
        ) from error
    if not is_head:
        waited = deadlines.words("address_probe_s")
        raise LaunchError(
            f"--address {address}: something listens there that is no head of Ray, or that hangs "
            f"(waited {waited}); give the address that `ray start --head` printed (default port "
            "6379)"
        )


def _speaks_grpc(line: socket.socket) -> bool:
    line.sendall(_GREETING)
    head = b""
    with contextlib.suppress(OSError):  # closed, or silent until the limit
        while len(head) < _FRAME_HEAD_BYTES:
            more = line.recv(_FRAME_HEAD_BYTES - len(head))
            if not more:
                break
            head += more
    return len(head) == _FRAME_HEAD_BYTES and head[_TYPE_AT] == _SETTINGS


def check_head(address: str) -> None:
    """LaunchError when the head at this address does not take our token, or runs another Ray or
    Python. Ray must be importable."""
    from ray.exceptions import AuthenticationError, RpcError

    try:
        usage: Any = importlib.import_module("ray._common.usage.usage_lib")
        raylet: Any = importlib.import_module("ray._raylet")
    except ImportError:  # names of Ray's own, in another Ray: its own words must do
        return
    try:
        found = usage.get_cluster_metadata(raylet.GcsClient(address=address))
    except AuthenticationError as error:
        raise LaunchError(f"--address {address}: {_about_token()}") from error
    except RpcError as error:
        raise LaunchError(
            f"--address {address}: the head does not answer ({error}); see `ray status` there, or "
            "start it again"
        ) from error
    refuse_skew(address, found or {})


def _about_token() -> str:
    one = "the one with which its head was started"
    if ray_has_token():
        return (
            f"the cluster refuses the token of this shell; export RAY_AUTH_TOKEN={{TOKEN}}, {one} "
            "(Ray reads RAY_AUTH_TOKEN, then the file RAY_AUTH_TOKEN_PATH, then ~/.ray/auth_token)"
        )
    return (
        "the cluster wants a token, and there is none here; export RAY_AUTH_MODE=token "
        f"RAY_AUTH_TOKEN={{TOKEN}}, {one}"
    )


def refuse_skew(address: str, cluster: dict[str, Any]) -> None:
    """LaunchError when the cluster's `ray_version` and `python_version` are known and not ours."""
    import ray

    ours = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    theirs = {key: cluster.get(key, value) for key, value in ours.items()}
    if theirs != ours:
        raise LaunchError(
            f"--address {address}: the cluster runs {_versions(theirs)}, this command "
            f"{_versions(ours)}; Ray joins its own versions only: start one of the two from the "
            "other's environment"
        )


def _versions(found: dict[str, Any]) -> str:
    return f"Ray {found['ray_version']} on Python {found['python_version']}"


@contextlib.contextmanager
def raw_lines_into(log: Path | None) -> Iterator[None]:
    """What C++ code prints on standard error goes to the end of `log`; what Python code prints
    there still reaches the console. None: everything stays as it is.

    Ray's libraries write to descriptor 2 behind Python's back, from threads of their own, also long
    after they were started.
    """
    target = _opened(log)
    if target is None:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(target, 2)
    os.close(target)
    console = os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace")
    try:
        with contextlib.redirect_stderr(console):
            yield
    finally:
        console.close()
        os.dup2(kept, 2)
        os.close(kept)


def _opened(log: Path | None) -> int | None:
    if log is None:
        return None
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # a log that cannot be written must not stop a run
        return None
