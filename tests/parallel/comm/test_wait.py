"""The end of a wait: what the library raises, and the end of the time, become one error that says who waited for
whom."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import LaunchError, PeerError
from dougong.parallel.comm.membership import Membership
from dougong.parallel.comm.wait import PeerWait


def member(message_s: float) -> Membership:
    names = ("east/0", "west/0", "west/1")
    return Membership(0, 3, 1, "east", (), torch.device("cpu"), (0,), names, Deadlines(message_s=message_s))


def test_an_error_of_the_library_is_a_lost_peer() -> None:
    with pytest.raises(PeerError) as caught, PeerWait(member(600), [0, 1, 2], "rows of site 1"):
        raise RuntimeError("connection closed by peer")
    said = "worker 0 (east/0) lost workers 1 (west/0), 2 (west/1): rows of site 1: connection closed by peer"
    assert (str(caught.value), caught.value.waited_for) == (said, ())


def test_the_end_of_the_time_names_its_key() -> None:
    never: Future[None] = Future()
    with pytest.raises(PeerError) as caught, PeerWait(member(0.01), [1], "rows of site 1") as wait:
        wait.for_future(never)
    said = "worker 0 (east/0) waited 0.01 s (fault.deadlines.message_s) for worker 1 (west/0): rows of site 1"
    assert (str(caught.value), caught.value.waited_for) == (said, ("west/0",))


@pytest.mark.parametrize(
    "text",
    [
        "[transport/tcp/unbound_buffer.cc:121] Operation timed out!",
        "[transport/tcp/unbound_buffer.cc:78] Timed out waiting 999ms for recv operation to complete",
    ],
)
def test_gloo_s_own_clock_counts_too(text: str) -> None:
    """It may have begun a moment before ours."""
    with (
        pytest.raises(
            PeerError, match=r"^worker 0 \(east/0\) waited 600 s .* for worker 1 \(west/0\): rows$"
        ) as caught,
        PeerWait(member(600), [1], "rows"),
    ):
        raise RuntimeError(text)
    assert caught.value.waited_for == ("west/0",)


def test_a_socket_s_own_limit_is_the_end_of_a_link() -> None:
    lost = pytest.raises(PeerError, match=r"lost worker 1 \(west/0\): rows: .*Connection timed out")
    with lost, PeerWait(member(600), [1], "rows"):
        raise RuntimeError("[transport/tcp/pair.cc:534] Read error: Connection timed out")


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    with pytest.raises(LaunchError, match="^another$"), PeerWait(member(600), [1], "rows"):
        raise LaunchError("another")
    with pytest.raises(ZeroDivisionError), PeerWait(member(600), [1], "rows"):
        raise ZeroDivisionError


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_fault_of_ones_own_device_is_a_cause(fault: type[RuntimeError]) -> None:
    with pytest.raises(fault, match="^own$"), PeerWait(member(600), [1], "rows"):
        raise fault("own")


def test_a_wait_goes_on_for_other_peers() -> None:
    wait = PeerWait(member(600), [1, 2], "rows")
    with wait.of([1]):
        pass
    with pytest.raises(PeerError, match=r"lost worker 2 \(west/1\): rows: gone"), wait.of([2]):
        raise RuntimeError("gone")


def test_time_runs_down_and_not_below_zero() -> None:
    assert 599 < PeerWait(member(600), [1], "rows").left_s <= 600
    assert PeerWait(member(0), [1], "rows").left_s == 0


def test_whoever_watches_is_told_for_whom_the_worker_waits_and_when_that_is_over() -> None:
    told: list[tuple[int, ...]] = []
    watched = replace(member(600), awaits=lambda ranks: told.append(tuple(ranks)))
    wait = PeerWait(watched, [0, 1, 2], "rows").of([1, 2])
    assert told == []
    with wait:
        wait.of([2])
    assert told == [(1, 2), (2,), ()]


def test_in_a_generation_that_is_over_no_wait_ends_well() -> None:
    """An operation that was aborted may look as if it had brought something, or as a fault of the device."""
    over = replace(member(600), is_over=lambda: True)
    with (
        pytest.raises(PeerError, match=r"^worker 0 \(east/0\): generation 1 has been ended$"),
        PeerWait(over, [1], "rows"),
    ):
        pass
    with pytest.raises(PeerError, match="rows: aborted"), PeerWait(over, [1], "rows"):
        raise torch.AcceleratorError("aborted")
