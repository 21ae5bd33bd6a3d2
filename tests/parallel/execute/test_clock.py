"""What is waited for is counted, also where the wait ends in an error."""

from __future__ import annotations

import time

import pytest
from dougong.parallel.execute.clock import Clock


def lose_a_peer() -> None:
    time.sleep(0.02)
    raise OSError("gone")


def test_waits_add_up_until_a_step_begins_and_an_error_ends_one() -> None:
    clock = Clock()
    with clock.exchanging():
        time.sleep(0.02)
    with pytest.raises(OSError, match="gone"), clock.exchanging():
        lose_a_peer()
    assert clock.exchange_s >= 0.04
    clock.restart()
    assert clock.exchange_s == 0.0
