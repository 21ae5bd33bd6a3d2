"""Sums of what was sent and of what has arrived, and the message that they do not fit."""

from __future__ import annotations

import torch
from dougong.ops.bit_sum import WRAP
from dougong.parallel.comm.tally import ChangedMessage, MessageTally, changed_message


def tally(*noted: tuple[str, int, int, bool]) -> MessageTally:
    """(what, peer, sum, whether it was sent) of each."""
    found = MessageTally()
    for what, peer, value, is_sent in noted:
        found.note(what, [peer], torch.tensor([value]), is_sent=is_sent)
    return found


def test_what_was_sent_less_what_has_arrived_is_nothing() -> None:
    one = tally(("rows", 1, 70, True), ("rows", 1, 30, True), ("outputs", 1, -5, False))
    other = tally(("rows", 0, 100, False), ("outputs", 0, -5, True))
    assert (one.balance() + other.balance()) % WRAP == 0
    assert changed_message([one.by_message(), other.by_message()]) is None
    one.begin()
    assert one.balance() == 0 and one.by_message() == {}


def test_the_message_that_has_changed_is_named() -> None:
    one = tally(("rows", 1, 100, True), ("outputs", 1, 5, False))
    other = tally(("rows", 0, 100, False), ("outputs", 0, 4, True))
    assert (one.balance() + other.balance()) % WRAP != 0
    assert changed_message([one.by_message(), other.by_message()]) == ChangedMessage("outputs", 1, 0)


def test_a_worker_s_message_to_itself_counts_too() -> None:
    alone = tally(("rows", 0, 100, True), ("rows", 0, 101, False))
    assert changed_message([alone.by_message()]) == ChangedMessage("rows", 0, 0)
