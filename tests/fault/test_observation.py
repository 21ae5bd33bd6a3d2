"""Which failures follow from another one: told by class, and for an abort by its company, never by a text."""

from __future__ import annotations

import pytest
from dougong.control.worker_messages import WorkerRaised
from dougong.errors import DougongError, LaunchError, PeerError
from dougong.fault.culprit import Culprit
from dougong.fault.observation import (
    AgentLost,
    Exited,
    Failure,
    Hung,
    NotStarted,
    Raised,
    is_abort,
    is_consequence,
    may_follow,
)
from dougong.launcher.agent.worker_process import describe_error

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242"
TEXTS = [
    GLOO,
    "Read error [10.0.0.2]:4242: Connection reset by peer",
    "Timed out waiting 1800000ms for recv operation to complete",
    "worker 1 of 2 could not join generation 3 at 10.0.0.1:4000",
    "Application timeout caused pair closure",
    "HCCL error 9",
    "NCCL communicator was aborted on rank 0",
    "",
]


def raised(error: BaseException) -> Raised:
    return Raised("east/0", describe_error(error))


@pytest.mark.parametrize("text", TEXTS)
def test_a_lost_peer_is_a_consequence_whatever_it_says(text: str) -> None:
    assert is_consequence(describe_error(PeerError(text)).bases)
    assert may_follow(raised(PeerError(text)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", [RuntimeError, ValueError, LaunchError, DougongError])
def test_no_other_error_is_a_consequence_whatever_it_says(kind: type[Exception], text: str) -> None:
    assert not is_consequence(describe_error(kind(text)).bases)
    assert not may_follow(raised(kind(text)))


def test_a_child_of_peer_error_is_a_lost_peer_too() -> None:
    assert is_consequence(("RouteError", "PeerError", "DougongError", "Exception"))


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Exited("a/0", -6), True),
        (Exited("a/0", -6, last_lines=("terminate called", GLOO)), True),
        (Exited("a/0", -6, drill=True), False),
        (Exited("a/0", -9), False),
        (Exited("a/0", -11, last_lines=(GLOO,)), False),
        (Exited("a/0", 6), False),
        (NotStarted("a/0", GLOO), False),
        (AgentLost(Culprit("agent", "a"), "its connection ended", ("a/0",)), False),
        (Hung("a/0", "still at work"), False),
        (Raised("a/0", WorkerRaised("KeyError", ("KeyError", "LookupError"), "x")), False),
    ],
)
def test_an_abort_alone_may_follow_from_something(failure: Failure, expected: bool) -> None:
    assert may_follow(failure) is expected
    assert is_abort(failure) is expected
