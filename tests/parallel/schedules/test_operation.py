"""The words of a schedule."""

from __future__ import annotations

import pytest
from dougong.parallel.schedules.operation import Kind, MessageKind, Operation, Program, receive, send


@pytest.mark.parametrize("message", MessageKind)
def test_every_message_has_a_send_and_a_receive(message: MessageKind) -> None:
    posted, taken = send(message, 1, 2), receive(message, 1, 2)
    assert (posted.kind.sends, posted.kind.receives, posted.kind.computes) == (message, None, False)
    assert (taken.kind.sends, taken.kind.receives, taken.kind.computes) == (None, message, False)


def test_a_kind_computes_sends_or_receives() -> None:
    assert [kind.words for kind in Kind if kind.computes] == [
        "forward", "backward",
        "experts forward", "experts backward", "weight gradients",
    ]  # fmt: skip
    assert {kind.sends for kind in Kind} == {kind.receives for kind in Kind} == {None, *MessageKind}


def test_who_sends_what() -> None:
    sides = {role: Program("w", role, ()) for role in ("attention", "experts", "both")}
    there, back = {MessageKind.ROWS, MessageKind.OUTPUT_GRADIENTS}, {MessageKind.OUTPUTS, MessageKind.ROW_GRADIENTS}
    assert {m for m in MessageKind if sides["attention"].sends(m)} == {
        m for m in MessageKind if sides["experts"].receives(m)
    }
    assert {m for m in MessageKind if sides["attention"].sends(m)} == there
    assert {m for m in MessageKind if sides["experts"].sends(m)} == back
    assert all(sides["both"].sends(m) and sides["both"].receives(m) for m in MessageKind)


def test_an_operation_in_words() -> None:
    assert str(Operation(Kind.BACKWARD, 3, 1)) == "backward (segment 3, micro-batch 1)"
    assert str(send(MessageKind.ROW_GRADIENTS, 0, 2)) == "send row gradients (site 0, micro-batch 2)"
