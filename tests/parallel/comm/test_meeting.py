"""Where workers meet. What they say when they wait in vain for others is in `test_world` too."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from dougong.deadlines import Deadlines
from dougong.errors import PeerError
from dougong.parallel.comm.arrival import Arrival
from dougong.parallel.comm.meeting import meet
from dougong.parallel.comm.membership import Membership
from torch.distributed import HashStore  # type: ignore[attr-defined]


def test_a_worker_comes_to_the_store_and_says_so() -> None:
    store = HashStore()
    alone = Membership(0, 1, 3, "east", (), torch.device("cpu"), (0,), ("east/0",))
    said: list[Arrival] = []
    meet(alone, store, said.append)
    assert said == [Arrival.AT_STORE]
    waiting = dataclasses.replace(alone, size=2, names=("east/0", "east/1"), deadlines=Deadlines(rendezvous_s=0.2))
    with pytest.raises(PeerError) as caught:
        meet(waiting, store, said.append)
    assert "could not join generation 3: it waited 0.2 s" in str(caught.value)
    assert "for worker 1 (east/1)" in str(caught.value)
