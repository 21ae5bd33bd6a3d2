"""The process of an agent of this machine: it serves one controller after the other.

Its settings come as a line of JSON on standard input. Where its controller is gone and somebody
holds the other end of that line, it ends all workers, keeps its fork server, and waits for the next
controller's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

from dougong.control.processes import die_with_parent, title_process
from dougong.deadlines import Deadlines
from dougong.errors import DougongError
from dougong.launcher.agent.agent import serve_run
from dougong.launcher.agent.fork_servers import LoadedServer
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.agents import WAITS

_LINE = 0


def main() -> None:
    """`python -m dougong.launcher.kept.serve`"""
    settings = AgentSettings.from_json(sys.stdin.readline())
    title_process(f"dougong agent {settings.name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, also about Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if settings.parent is not None:
        die_with_parent(settings.parent)
    loaded = LoadedServer()
    try:
        status = 0 if _serve_all(settings, loaded) else 1
    finally:
        loaded.close()
    sys.exit(status)


def _serve_all(settings: AgentSettings, loaded: LoadedServer) -> bool:
    """One controller after the other; whether the last one has ended this agent."""
    while True:
        try:
            ended_by_controller = serve_run(settings, loaded)
        except DougongError as error:
            sys.exit(f"agent {settings.name}: {error}")
        following = _await_settings(settings.deadlines) if loaded.is_kept else None
        if following is None:
            return ended_by_controller
        settings = following


def _await_settings(deadlines: Deadlines) -> AgentSettings | None:
    """Those of the next controller; None: there is none."""
    with contextlib.suppress(OSError):  # nobody holds the other end: the next look says so
        os.write(_LINE, WAITS)
    ready, _, _ = select.select([_LINE], [], [], deadlines.next_controller_s)
    line = sys.stdin.readline() if ready else ""
    return AgentSettings.from_json(line) if line else None


if __name__ == "__main__":
    main()
