"""A ring gives each part one piece of memory that nobody else has, as long as it is not given back."""

from __future__ import annotations

from collections import deque

import torch
from dougong.parallel.dense.ring import ScratchRing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def test_what_does_not_fit_waits_for_the_oldest() -> None:
    ring = ScratchRing(torch.zeros(10))
    assert ring.take(6) is not None and ring.take(6) is None
    assert ring.take(4) is not None and ring.take(1) is None
    ring.give_back()
    assert ring.take(7) is None and ring.take(6) is not None


@given(st.lists(st.one_of(st.none(), st.integers(0, 12)), max_size=60), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_parts_never_meet_and_an_empty_ring_takes_all(orders: list[int | None], size: int) -> None:
    ring, taken = ScratchRing(torch.zeros(size)), deque[tuple[Tensor, float]]()
    for number, numel in enumerate(orders, 1):
        if numel is None and taken:
            part, value = taken.popleft()
            assert bool((part == value).all())
            ring.give_back()
        elif numel is not None and (part := ring.take(numel)) is not None:
            assert len(part) == numel
            taken.append((part.fill_(number), float(number)))
        elif numel is not None:
            assert taken or numel > size
