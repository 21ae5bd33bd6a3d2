"""What a worker goes through before its first step."""

from __future__ import annotations

from dougong.parallel.comm.arrival import Arrival


def test_whoever_is_further_has_the_higher_number_and_nobody_is_before_the_beginning() -> None:
    assert list(Arrival) == [Arrival.BEGINS, Arrival.AT_STORE, Arrival.CONNECTS, Arrival.BUILDS]
    assert [stage.value for stage in Arrival] == [0, 1, 2, 3]  # a worker that has reported nothing has a zero there
