"""What libraries say when they have waited in vain for a peer. Pure.

A wait of ours ends in a PeerError, and torch.distributed's own errors have a class (`DistError`).
What is left are the words of watchdogs: NCCL's ends its process, HCCL's error comes out of whatever
the program does next, as a bare RuntimeError. Whoever says so has waited: another one is the cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ECHOES = (
    # ProcessGroupNCCL, a wait that blocks.
    r"Work WorkNCCL\(.*\) timed out in blocking wait",
    # Its watchdog's thread, before it ends the process.
    r"Watchdog caught collective operation timeout",
    # TCPStore, through which communicators are made.
    r"wait timeout after \d+ms",
    # CANN's code for a notification that a peer has not sent.
    r"\bEI0002\b",
    r"notify wait .*times? out",
)
_ECHO = re.compile("|".join(_ECHOES), re.IGNORECASE)


def is_echo(text: str) -> bool:
    """Whether a library says that it has waited for a peer to the end of its time."""
    return _ECHO.search(text) is not None


def echo_in(lines: Iterable[str]) -> str:
    """The first of a process's last lines that says so; empty where none does."""
    return next((line.strip() for line in lines if is_echo(line)), "")
