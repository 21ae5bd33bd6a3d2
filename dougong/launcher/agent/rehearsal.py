"""What an agent does when a drill is for it, for its fork server, or for one of its workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from dougong.control.messages import InflictFault
from dougong.control.progress import OrderedFault
from dougong.fault.self_inflicted import go_on_later, signal_for, slow_down
from dougong.job.drills.vocabulary import known_fault
from dougong.launcher.agent.child import Child
from dougong.launcher.agent.fork_servers import ForkServers


def inflict_on(message: InflictFault, children: Sequence[Child], fork_servers: ForkServers) -> None:
    """Do it. `children`: the workers of the message's generation; nothing happens where the one
    that it is for has ended meanwhile."""
    fault = known_fault(message.fault)
    if fault is None:
        return  # a controller of another release; it has told of it what there is to tell
    for_s = fault.lasts_s if message.for_s is None else message.for_s
    match fault.target:
        case "agent":
            _inflict_on_self(fault.name, for_s)
        case "fork_server":
            _signal(fork_servers.pid, signal_for(fault.name) or signal.SIGKILL, for_s)
        case _:
            for child in children:
                if child.worker == message.worker and child.pid is not None:
                    _inflict_on_worker(fault.name, for_s, child, child.pid, fork_servers)


def _inflict_on_self(name: str, for_s: float | None) -> None:
    number = signal.SIGKILL if name == "kill_agent" else signal.SIGSTOP
    _signal(os.getpid(), number, for_s)


def _signal(pid: int, number: signal.Signals, for_s: float | None) -> None:
    if number == signal.SIGSTOP and for_s is not None:
        go_on_later(pid, for_s)
    os.kill(pid, number)


def _inflict_on_worker(
    name: str, for_s: float | None, child: Child, pid: int, fork_servers: ForkServers
) -> None:
    number = signal_for(name)
    if number is not None:
        if number == signal.SIGSTOP and for_s is not None:
            go_on_later(pid, for_s)
        fork_servers.signal(pid, number)
    elif name == "slow_cpu":
        slow_down(pid, for_s or 1.0)
    else:
        child.vector.order_fault(OrderedFault(name, for_s))
