"""Machines that are left alone for a while after an agent was lost there."""

from __future__ import annotations

from dougong.deadlines import DEADLINES
from dougong.launcher.controller.inbound.reserve import ReserveFacts


def test_what_fails_again_is_left_alone_for_twice_as_long() -> None:
    reserve, now = ReserveFacts(), 100.0
    for times in (1, 2, 4, 8):
        reserve.note_loss("node1", now)
        pause_s = times * DEADLINES.node_retry_s
        assert reserve.is_left_alone("node1", now + pause_s - 0.1)
        assert not reserve.is_left_alone("node2", now)
        now += pause_s + 0.1
        assert not reserve.is_left_alone("node1", now)


def test_several_agents_of_one_machine_are_one_loss_and_an_hour_forgets_it() -> None:
    reserve = ReserveFacts()
    reserve.note_loss("node1", 0.0)
    reserve.note_loss("node1", 0.1)
    assert not reserve.is_left_alone("node1", 0.1 + DEADLINES.node_retry_s)
    late = 2 * DEADLINES.budget_s
    reserve.note_loss("node1", late)
    assert not reserve.is_left_alone("node1", late + DEADLINES.node_retry_s)
