"""What signals ask of a run.

A terminal's Ctrl-C reaches the command alone, which passes it on to its controller; a batch system
(Slurm, `ray job stop`, systemd) signals both. So what the command passes on has a number of its
own, and a signal that comes both ways is one request: a second one would cost the step in progress
and its checkpoint. Programs that end others (`timeout`, `make`) send SIGTERM twice in a moment,
which a person does not do; Ctrl-C twice in a moment is a person.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from dougong.deadlines import DEADLINES
from dougong.launcher.controller.inbound.inbox import Inbox
from dougong.launcher.controller.inbound.items import SignalReceived

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asking() -> set[signal.Signals]:
    """The signals that ask for something; what a `nohup` has had ignored stays so."""
    return {number for number in _ASKING if signal.getsignal(number) != signal.SIG_IGN}


def pass_on(pid: int, number: int) -> None:
    """Send a signal to a controller that has done `hear_passed_on`."""
    os.kill(pid, _passed_on(number))


def hear_passed_on() -> None:
    """What is passed on to this process does at first what the signal itself would do."""
    for number in _ASKING:
        signal.signal(_passed_on(number), _do_as_the_signal)


def _passed_on(number: int) -> int:
    return signal.SIGRTMIN + 1 + _ASKING.index(signal.Signals(number))


def _of_passed_on(number: int) -> signal.Signals:
    return _ASKING[number - signal.SIGRTMIN - 1]


def _do_as_the_signal(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), _of_passed_on(number))


class _SignalsHeard:
    """Counts once what is one request."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        # By signal, and of Ctrl-C by the way it has come: when it was last taken for a request.
        self._taken_at: dict[tuple[int, bool], float] = {}

    def note(self, number: int, is_passed_on: bool) -> None:
        now = time.monotonic()
        is_ctrl_c = number == signal.SIGINT
        twin = (number, is_ctrl_c and not is_passed_on)
        taken_at = self._taken_at.get(twin, -math.inf)
        if is_ctrl_c:
            self._taken_at.pop(twin, None)
        if now - taken_at < DEADLINES.same_signal_s:
            return
        self._taken_at[number, is_ctrl_c and is_passed_on] = now
        self._inbox.put(SignalReceived(number))


@contextlib.contextmanager
def signals_into(inbox: Inbox) -> Iterator[None]:
    """Signals become items of the inbox, so that the controller alone decides what they mean."""
    heard = _SignalsHeard(inbox)

    def note(number: int, frame: FrameType | None) -> None:
        heard.note(number, is_passed_on=False)

    def note_passed_on(number: int, frame: FrameType | None) -> None:
        heard.note(_of_passed_on(number), is_passed_on=True)

    wanted = asking() | {signal.SIGINT, signal.SIGTERM}
    handlers = {int(number): note for number in wanted}
    if hasattr(signal, "SIGRTMIN"):  # elsewhere no command has a controller beside it
        handlers |= {_passed_on(number): note_passed_on for number in _ASKING}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
