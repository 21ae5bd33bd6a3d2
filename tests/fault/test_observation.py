"""Which failures follow from another one: told by class, for an abort by its company, and by a text where a library
has no class for it."""

from __future__ import annotations

import pytest
import torch
from dougong.control.worker_messages import WorkerRaised
from dougong.errors import DougongError, LaunchError, PeerError
from dougong.fault.culprit import Culprit
from dougong.fault.diagnosis import diagnose, first_failure
from dougong.fault.observation import (
    AgentLost,
    Exited,
    Failure,
    Hung,
    NotStarted,
    Raised,
    echo_in,
    is_abort,
    is_consequence,
    is_echo,
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


NCCL_WAIT = (
    "[Rank 3]  Work WorkNCCL(SeqNum=412, OpType=ALLREDUCE, NumelIn=4194304, NumelOut=4194304, Timeout(ms)=600000) "
    "timed out in blocking wait."
)
NCCL_WATCHDOG = (
    "[rank1]:[E1126 10:02:11.482103 2210 ProcessGroupNCCL.cpp:685] [Rank 1] Watchdog caught collective operation "
    "timeout: WorkNCCL(SeqNum=97, OpType=ALLGATHER, NumelIn=512, NumelOut=4096, Timeout(ms)=600000) ran for 600043 "
    "milliseconds before timing out."
)
STORE = "wait timeout after 120000ms, keys: /default_pg/0//cuda//2_rank_2/nccl/rank0"
HCCL = (
    "[ERROR] 2026-11-26-10:02:11 (PID:2210, Device:1, RankID:1) ERR02200 DIST call hccl api failed.\nEI0002: "
    "[PID: 2210] 2026-11-26-10:02:11.482.103 The wait execution of the Notify register times out. Reason: The Notify "
    "register has not received the Notify record from remote rank [0]."
)
HCCL_NOTIFY = "HCCL: notify wait task times out, remote rank 0"
WAITED = [NCCL_WAIT, NCCL_WATCHDOG, STORE, HCCL, HCCL_NOTIFY]


@pytest.mark.parametrize("text", WAITED)
def test_a_library_s_own_timeout_is_an_echo(text: str) -> None:
    assert may_follow(raised(RuntimeError(text))), "a bare RuntimeError has nothing but words"
    assert may_follow(raised(torch.distributed.DistBackendError("whatever it says")))
    for kind in (ValueError, DougongError):
        assert not may_follow(raised(kind(text)))


@pytest.mark.parametrize("text", WAITED)
def test_every_watchdog_is_known_by_its_own_line(text: str) -> None:
    assert is_echo(text) and echo_in(["terminate called", f"  {text}  ", "Aborted"]) == text


@pytest.mark.parametrize("text", [*TEXTS, "a wait timeout", "CUDA error: an illegal memory access was encountered"])
def test_other_words_are_no_echo(text: str) -> None:
    assert not is_echo(text) and echo_in([text]) == ""


@pytest.mark.parametrize("text", WAITED)
def test_who_has_waited_is_not_named_where_somebody_else_has_failed(text: str) -> None:
    waited = raised(RuntimeError(text))
    device = Raised("west/0", describe_error(torch.AcceleratorError("CUDA error: an illegal memory access")))
    abort = Exited("east/1", -6, last_lines=(NCCL_WATCHDOG, "terminate called"))
    for order in ([waited, abort, device], [abort, waited, device]):
        assert first_failure(order)[0] is device
    assert diagnose(device).kind == "device" and diagnose(waited).kind == "hang"
    alone = diagnose(abort)
    assert alone.kind == "hang" and "watchdog has ended it: [rank1]" in alone.cause


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
