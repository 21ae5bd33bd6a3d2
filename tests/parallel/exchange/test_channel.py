"""An emulated link. What a channel carries is in `test_exchange`."""

from __future__ import annotations

import pytest
from dougong.parallel.exchange.channel import EmulatedLink


def test_a_link_takes_its_latency_and_its_bytes() -> None:
    assert EmulatedLink(1e6, 0.5).seconds(250_000) == pytest.approx(0.75)
