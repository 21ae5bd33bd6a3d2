"""A look at a Ray cluster's head before it is joined: whether one answers, whether it takes our
token, whether it is of our versions, whether this machine is a node of its cluster. Each is one
sentence with its remedy.

Ray itself tries for half a minute, says what is wrong in its own log's lines, and then that it has
failed.
"""

from __future__ import annotations

import importlib
import platform
import secrets
import socket
import time
from concurrent import futures
from pathlib import Path
from typing import Any

from dougong.addresses import read_address
from dougong.control.bounded import answer_within
from dougong.control.environment import ray_has_token, ray_wants_token, temporary_variables
from dougong.control.network.path_probe import TimedLine
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError
from dougong.launcher.backends.http2 import PREFACE, SETTINGS, frame, read_head
from dougong.launcher.backends.ray_choice import RayChoice
from dougong.launcher.backends.ray_members import Member, refuse_outsider


def find_head(choice: RayChoice, deadlines: Deadlines) -> None:
    """LaunchError, in seconds, when no head of a Ray cluster answers at the chosen HOST:PORT."""
    host, port = read_address(choice.address or "")
    try:
        is_head = _answers(host, port, deadlines)
    except OSError as error:
        raise LaunchError(
            f"{choice.origin}: nobody answers ({error}); on that machine type "
            f"`ray start --head --port={port}`, and see that a firewall lets it through"
            f"{choice.or_own}"
        ) from error
    if not is_head:
        waited = deadlines.words("address_probe_s")
        raise LaunchError(
            f"{choice.origin}: something listens there that is no head of Ray, or that hangs "
            f"(waited {waited}); give the address that `ray start --head` printed (default port "
            f"6379){choice.or_own}"
        )


def refuse_missing_token(choice: RayChoice) -> None:
    """LaunchError when this shell asks for a token and has none: Ray would abort the process."""
    if ray_wants_token() and not ray_has_token():
        raise LaunchError(
            f"{choice.origin}: RAY_AUTH_MODE=token is set, and there is no token; export "
            "RAY_AUTH_TOKEN={TOKEN}, the one with which the cluster's head was started (or "
            f"RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token){choice.or_own}"
        )


def _answers(host: str, port: int, deadlines: Deadlines) -> bool:
    """Whether somebody there speaks gRPC, within `address_probe_s` in all. OSError where nobody
    listens."""
    end = time.monotonic() + deadlines.address_probe_s
    place = _resolved(host, port, deadlines)
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(f"to find {host} took all of {deadlines.words('address_probe_s')}")
    with socket.create_connection(place, timeout=left_s) as line:
        return _speaks_grpc(line, end)


def _resolved(host: str, port: int, deadlines: Deadlines) -> tuple[str, int]:
    """The host's first address."""

    def ask() -> str:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return str(answers[0][4][0])

    try:
        return answer_within(deadlines.address_probe_s, ask), port
    except futures.TimeoutError:
        waited = deadlines.words("address_probe_s")
        raise TimeoutError(f"no name server knows {host} within {waited}") from None


def _speaks_grpc(sock: socket.socket, end: float) -> bool:
    sock.sendall(PREFACE + frame(SETTINGS, b""))
    try:
        return read_head(TimedLine(sock, end)).kind == SETTINGS
    except (OSError, EOFError):  # closed, or silent until the limit
        return False


def check_head(choice: RayChoice, deadlines: Deadlines, run: Path | None = None) -> None:
    """LaunchError when the chosen head does not take our token, runs another Ray or Python, or
    when this machine is no node of its cluster. `run`: the run's directory. Ray must be
    importable."""
    from ray.exceptions import AuthenticationError, RpcError

    try:
        usage: Any = importlib.import_module("ray._common.usage.usage_lib")
        raylet: Any = importlib.import_module("ray._raylet")
    except ImportError:  # names of Ray's own, in another Ray: its own words must do
        return

    def ask() -> tuple[Any, dict[str, Any]]:
        client = raylet.GcsClient(address=choice.address)
        return client, usage.get_cluster_metadata(client) or {}

    try:
        client, cluster = answer_within(deadlines.address_probe_s, ask)
        refuse_skew(choice, cluster)
        refuse_outsider(choice, _Gcs(client, deadlines), run, deadlines)
    except AuthenticationError as error:
        raise LaunchError(f"{choice.origin}: {_about_token()}{choice.or_own}") from error
    except futures.TimeoutError:
        waited = f"waited {deadlines.words('address_probe_s')}"
        raise LaunchError(f"{choice.origin}: {_about_silence(waited)}{choice.or_own}") from None
    except RpcError as error:
        raise LaunchError(f"{choice.origin}: {_about_silence(error)}{choice.or_own}") from error


def is_open(choice: RayChoice, deadlines: Deadlines) -> bool:
    """Whether the chosen head, which has just let us in, would have let in anybody: it takes a
    token that nobody knows. False also where it does not say in time. Ray must be importable."""
    if not ray_has_token():
        return True

    def ask() -> None:
        raylet: Any = importlib.import_module("ray._raylet")
        client = raylet.GcsClient(address=choice.address)
        client.internal_kv_get(b"any", b"dougong", timeout=deadlines.address_probe_s)

    try:
        with temporary_variables({"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            forget_token()
            answer_within(deadlines.address_probe_s, ask)
    except Exception:  # it refuses the token; or is silent, which is told elsewhere
        return False
    finally:
        forget_token()
    return True


def open_words(choice: RayChoice) -> str:
    """What a person is told who joins such a cluster."""
    return (
        f"{choice.origin}: this Ray cluster asks nobody for a token: whoever reaches its ports can "
        "run programs on its machines as their user; start it with RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN on every machine (docs/security.md), or say --allow-open-cluster"
    )


class _Gcs:
    """What a head says of its cluster, by a client of Ray's own."""

    def __init__(self, client: Any, deadlines: Deadlines) -> None:
        self._client = client
        self._limit_s = deadlines.address_probe_s

    def members(self) -> list[Member]:
        """The nodes that are alive for the head."""
        states: Any = importlib.import_module("ray.core.generated.gcs_pb2")
        alive = states.GcsNodeInfo.GcsNodeState.ALIVE
        found = []
        infos = self._client.get_all_node_info(timeout=self._limit_s)
        for node, info in infos.items():
            if info.state == alive:
                name = info.node_manager_hostname or info.node_manager_address
                found.append(Member(node.hex(), name))
        return found

    def cluster(self) -> str:
        """By which it knows its cluster."""
        return str(self._client.cluster_id.hex())

    def dashboard(self) -> str:
        """HOST:PORT where jobs can be submitted; empty where they cannot."""
        found = self._client.internal_kv_get(b"webui:url", b"dashboard", timeout=self._limit_s)
        return found.decode() if found else ""


def forget_token() -> None:
    """Ray's libraries keep the first token that a process has read; each Ray of a run's own has
    another, and `calibrate` has two of them."""
    raylet: Any = importlib.import_module("ray._raylet")
    loader = getattr(raylet, "AuthenticationTokenLoader", None)
    if loader is not None:  # a name of Ray's own, in another Ray
        loader.instance().reset_cache()


def _about_silence(why: object) -> str:
    return f"the head does not answer ({why}); see `ray status` there, or start it again"


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


def refuse_skew(choice: RayChoice, cluster: dict[str, Any]) -> None:
    """LaunchError when the cluster's `ray_version` and `python_version` are known and not ours."""
    import ray

    ours = {"ray_version": ray.__version__, "python_version": platform.python_version()}
    theirs = {key: cluster.get(key, value) for key, value in ours.items()}
    if theirs != ours:
        raise LaunchError(
            f"{choice.origin}: the cluster runs {_versions(theirs)}, this command "
            f"{_versions(ours)}; Ray joins its own versions only: start one of the two from the "
            f"other's environment{choice.or_own}"
        )


def _versions(found: dict[str, Any]) -> str:
    return f"Ray {found['ray_version']} on Python {found['python_version']}"
