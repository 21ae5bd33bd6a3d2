"""What a worker goes through before its first step."""

from __future__ import annotations

from dougong.parallel.comm.meeting import Meeting


def test_whoever_is_further_has_the_higher_number_and_nobody_is_before_the_beginning() -> None:
    assert list(Meeting) == [Meeting.BEGINS, Meeting.AT_STORE, Meeting.CONNECTS, Meeting.BUILDS]
    assert [stage.value for stage in Meeting] == [0, 1, 2, 3]  # a worker that has reported nothing has a zero there
