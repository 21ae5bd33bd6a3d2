"""Bytes that are alive."""

from __future__ import annotations

import torch
from dougong.models.memory.live_bytes import LiveBytes


def test_bytes_come_with_operators_and_go_with_their_last_holder() -> None:
    given = torch.ones(8)
    live = LiveBytes()
    with live:
        view = given.view(2, 4)
        made = view + 1
        assert (live.now, live.peak) == (32, 32)
        other = made * 2
        del made
        assert (live.now, live.peak) == (32, 64)
        live.begin()
        assert live.peak == 32
        del other
    assert live.now == 0


def test_tensors_without_memory_count_where_they_are_asked_for() -> None:
    with LiveBytes(on_meta=True) as live:
        kept = torch.empty(4, device="meta") + 1
        torch.ones(100)
        assert live.now == 16 and kept.is_meta
