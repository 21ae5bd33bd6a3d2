"""Who a worker is: which peers its native library reaches, and how they are called."""

from __future__ import annotations

import pytest
import torch
from dougong.parallel.comm.membership import Membership

ISLANDS = (("east", "nccl", (0, 1)), ("west", "gloo", (2, 3)))
CPU = torch.device("cpu")


@pytest.mark.parametrize(("island", "reached"), [("east", {0, 1}), ("west", set()), ("", set())])
def test_the_native_library_reaches_its_own_island(island: str, reached: set[int]) -> None:
    member = Membership(0, 4, 1, island, ISLANDS, CPU, (0,))
    assert member.native_peers == reached


def test_peers_in_words() -> None:
    member = Membership(0, 4, 1, "east", ISLANDS, CPU, (0,), ("east/0", "east/1", "west/0"))
    assert member.in_words([1]) == "worker 1 (east/1)"
    assert member.in_words([0, 2]) == "workers 0 (east/0), 2 (west/0)"
    assert member.in_words([3]) == "worker 3", "a name that is not known is left out"
