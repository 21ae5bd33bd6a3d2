"""What a worker, or the controller, does to itself when a drill says so: no root, no torch,
nothing outside it.

What stops a process for a while is undone from outside: a shell that sleeps meanwhile, in the same
process group, so that it ends with whoever ends the worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NoReturn

from dougong.job.drills.vocabulary import TURN_S, known_fault

ENDS_ITS_PROCESS = ("kill", "segfault", "abort", "leave", "notice")
"""After these the worker is gone, by the drill's will."""


def inflict(name: str, for_s: float | None = None) -> None:
    """Do it to this process, now. `for_s`: how long, of what lasts; None: as the vocabulary says.

    Raises KeyError for what a worker cannot do to itself.
    """
    fault = known_fault(name)
    lasts_s = for_s if for_s is not None or fault is None else fault.lasts_s
    _ACTS[name](lasts_s)


def can_inflict(name: str) -> bool:
    """Whether a worker can do it to itself without looking at its numbers."""
    return name in _ACTS


def signal_for(name: str) -> signal.Signals | None:
    """The signal by which another process does the same to this one; None: by none."""
    return _SIGNALS.get(name)


def go_on_later(pid: int, for_s: float) -> None:
    """SIGCONT for a process after so many seconds, whatever happens to this one."""
    _shell(f"sleep {for_s:.3f}; kill -CONT {pid}")


def slow_down(pid: int, for_s: float) -> None:
    """Half of the processor's time for a process, for so long: it is stopped every other moment."""
    turns = max(1, round(for_s / (2 * TURN_S)))
    turn = f"kill -STOP {pid}; sleep {TURN_S}; kill -CONT {pid}; sleep {TURN_S}"
    _shell(f"i=0; while [ $i -lt {turns} ]; do {turn}; i=$((i+1)); done")


def _shell(text: str) -> None:
    # Nobody waits for it: it ends by itself, and its parent's end collects it.
    nothing = subprocess.DEVNULL
    subprocess.Popen(["sh", "-c", text], stdin=nothing, stdout=nothing, stderr=nothing)


def _signalled(number: signal.Signals) -> Callable[[float | None], None]:
    def act(for_s: float | None) -> None:
        # What a library or a test has put in its place would only print and go on.
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return act


def _stop(for_s: float | None) -> None:
    if for_s is not None:
        go_on_later(os.getpid(), for_s)
    os.kill(os.getpid(), signal.SIGSTOP)


def _segfault(for_s: float | None) -> None:
    ctypes.string_at(0)


def _leave(for_s: float | None) -> NoReturn:
    os._exit(0)


def _raise(for_s: float | None) -> NoReturn:
    raise RuntimeError("the drill says so")  # no error of ours, as a mistake in a model is none


def _memory_error(for_s: float | None) -> NoReturn:
    raise MemoryError("the drill says so")


def _hold_interpreter(for_s: float | None) -> None:
    # PyDLL, unlike CDLL, calls without letting other threads run.
    ctypes.PyDLL(None).sleep(max(1, round(for_s or 1)))


def _slow_cpu(for_s: float | None) -> None:
    slow_down(os.getpid(), for_s or 1.0)


_SIGNALS: Mapping[str, signal.Signals] = MappingProxyType(
    {
        "kill": signal.SIGKILL,
        "segfault": signal.SIGSEGV,
        "abort": signal.SIGABRT,
        "notice": signal.SIGTERM,
        "stop": signal.SIGSTOP,
        "pause": signal.SIGSTOP,
        "kill_controller": signal.SIGKILL,
        "stop_controller": signal.SIGSTOP,
        "kill_fork_server": signal.SIGKILL,
        "stop_fork_server": signal.SIGSTOP,
    }
)

_ACTS: Mapping[str, Callable[[float | None], None]] = MappingProxyType(
    {
        "kill": _signalled(signal.SIGKILL),
        "segfault": _segfault,
        "abort": _signalled(signal.SIGABRT),
        "leave": _leave,
        "raise": _raise,
        "memory_error": _memory_error,
        "notice": _signalled(signal.SIGTERM),
        "stop": _stop,
        "pause": _stop,
        "kill_controller": _signalled(signal.SIGKILL),
        "stop_controller": _stop,
        "hold_interpreter": _hold_interpreter,
        "slow_cpu": _slow_cpu,
    }
)
