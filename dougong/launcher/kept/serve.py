"""The process of an agent: it serves one controller after the other.

Where its controller is gone and another may follow, it ends all workers, keeps its fork server, and
waits for the next one's settings, as long as somebody holds the other end of its line.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from dougong.control.processes import die_with_parent, name_process, title_process
from dougong.deadlines import DEADLINES
from dougong.errors import DougongError, PreemptedError
from dougong.launcher.agent.agent import serve_run
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.agent.workers import Heritage
from dougong.launcher.kept.door import Door
from dougong.launcher.kept.line import DETACHED, WAITS, AgentEnd, StarterLine
from dougong.launcher.kept.waiting import await_starter

_NAME = "ray::dougong"
"""What `ray stop` ends has such a name: who takes Ray from a machine takes its agents too."""


def main() -> None:
    """`python -m dougong.launcher.kept.serve [detached]`"""
    line = StarterLine()
    settings = line.await_settings(DEADLINES)
    if settings is None:
        sys.exit("nobody says what this agent is to serve")
    title_process(f"dougong agent {settings.name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, also about Ctrl-C
    if DETACHED in sys.argv:
        _detach(line)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if settings.parent is not None:
            die_with_parent(settings.parent)
    end = _serve_all(settings, line, _open_door(settings))
    line.say(f"{end.to_json()}\n".encode())
    sys.exit(0 if end.by_controller else 1)


def _open_door(settings: AgentSettings) -> Door | None:
    """None where nobody is to come, or this machine has none."""
    try:
        return Door(settings) if settings.outlives else None
    except OSError as error:
        print(f"agent {settings.name}: ends with its starter: {error}", file=sys.stderr, flush=True)
        return None


def _serve_all(settings: AgentSettings, line: StarterLine, door: Door | None) -> AgentEnd:
    """One controller after the other; how the last one's time has ended."""
    heritage = Heritage()
    following: AgentSettings | None = settings
    by_controller = False
    try:
        while following is not None:
            settings = following
            by_controller = serve_run(settings, heritage)
            is_kept = heritage.loaded.is_kept
            following = _await_next(settings, line, door) if is_kept else None
    except DougongError as error:
        print(f"agent {settings.name}: {error}", file=sys.stderr, flush=True)
        return AgentEnd(False, str(error))
    finally:
        heritage.close(settings.deadlines)
    return AgentEnd(by_controller)


def _await_next(
    settings: AgentSettings, line: StarterLine, door: Door | None
) -> AgentSettings | None:
    line.say(WAITS)
    if door is None:
        return line.await_settings(settings.deadlines)
    return await_starter(settings, line, door)


def _detach(line: StarterLine) -> None:
    """Go on in a process that its starter's end does not touch: forked twice, in a session of its
    own. The starter is told its number."""
    if os.fork():
        os._exit(0)
    os.setsid()
    name_process(_NAME)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_by_signal)
    line.say_pid()


def _end_by_signal(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: its workers are ended now
    raise PreemptedError("SIGTERM: this machine is taken from the run, as by `ray stop`")


if __name__ == "__main__":
    main()
