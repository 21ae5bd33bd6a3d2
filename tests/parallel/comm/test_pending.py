"""What has begun is done when both ways are. What a device does in between is in `tests/simdev/messages.py`."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
import torch
from dougong.errors import PeerError
from dougong.parallel.comm.pending import Pending
from dougong.parallel.comm.route import UnderWay
from dougong.parallel.comm.streams import Mark
from dougong.parallel.comm.wait import PeerWait
from tests.parallel.lost_peer import member_of_two

CPU = torch.device("cpu")


def pending_of(host: Future[None] | None, native: Future[Mark] | None, target: torch.Tensor) -> Pending:
    landed = UnderWay(landings=[(torch.ones(2), target)])
    return Pending(landed, host, native, CPU, lambda: PeerWait(member_of_two(0), [1], "gradients"))


def test_it_is_done_when_both_ways_are_and_then_lands() -> None:
    host, native, target = Future[None](), Future[Mark](), torch.zeros(2)
    pending = pending_of(host, native, target)
    assert not pending.is_done()
    host.set_result(None)
    assert not pending.is_done()
    native.set_result(None)
    assert pending.is_done() and target.tolist() == [0, 0]
    pending.wait()
    assert target.tolist() == [1, 1]


def test_a_peer_that_is_lost_on_the_native_way_is_named() -> None:
    native = Future[Mark]()
    native.set_exception(RuntimeError("communicator was aborted"))
    pending = pending_of(None, native, torch.zeros(2))
    for ask in (pending.is_done, pending.wait):
        with pytest.raises(PeerError, match=r"lost worker 1 \(east/1\): gradients: communicator was aborted"):
            ask()
