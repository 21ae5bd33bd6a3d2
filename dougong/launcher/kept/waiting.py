"""An agent of a cluster that has lost its controller, and perhaps whoever has started it: it waits
for another one with its workers and what they hold, as long as the run may go on with that.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time

from dougong.errors import DougongError
from dougong.launcher.agent.settings import AgentSettings
from dougong.launcher.kept.door import Door
from dougong.launcher.kept.line import StarterLine
from dougong.records.directory import RunDir
from dougong.records.events import GenerationStarted
from dougong.records.finished import newest_generation
from dougong.records.lease import LeaseSight, see_newest


def await_starter(settings: AgentSettings, line: StarterLine, door: Door) -> AgentSettings | None:
    """The settings of the next controller, by the line, or by whoever comes to the door; None:
    there is none, or it does not want this agent as it is. `settings`: of the one that is gone."""
    until = time.monotonic() + settings.deadlines.resume_s
    run = RunWatch(settings)
    is_held = True
    while time.monotonic() < until:
        ends: list[StarterLine | Door] = [line, door] if is_held else [door]
        ready, _, _ = select.select(ends, [], [], settings.deadlines.lease_renew_s)
        if door in ready:
            came = door.let_in()
            if came is not None:
                line.take(came)
                return _wanted(settings, line)
        elif line in ready:
            found = line.await_settings(settings.deadlines)
            if found is not None:
                return found
            is_held = False  # who had started it is gone, too
        if run.over:
            print(f"agent {settings.name}: {run.over}", file=sys.stderr, flush=True)
            return None
    return None


def _wanted(before: AgentSettings, line: StarterLine) -> AgentSettings | None:
    """What who came to the door asks for, if it is a later controller's, on the same devices. Else
    this agent ends, so that another one may begin here."""
    found = line.await_settings(before.deadlines)
    if found is None or found.fence <= before.fence or found.visible != before.visible:
        return None
    line.say_pid()
    return found


class RunWatch:
    """Whether the run goes on without this agent, or not at all. A thread looks: storage may
    hang."""

    def __init__(self, settings: AgentSettings) -> None:
        self.over = ""
        self._settings = settings
        self._run = RunDir(settings.run_dir)
        self._first: LeaseSight | None = None
        self._judged: tuple[int, bool] | None = None
        threading.Thread(target=self._watch, name="dougong-run-watch", daemon=True).start()

    def _watch(self) -> None:
        while not self.over:
            with contextlib.suppress(DougongError, OSError):  # it may be read yet
                self.over = self._look()
            time.sleep(self._settings.deadlines.lease_renew_s)

    def _look(self) -> str:
        newest, own = see_newest(self._run.path), self._settings.fence
        if newest is None or newest.holder is None or newest.fence < own:
            return ""
        if newest.fence == own and not newest.holder.ended:
            self._first = self._first or newest
            is_alive = newest.data != self._first.data
            return "its controller lives, and has given it up" if is_alive else ""
        if self._judged == (newest.fence, newest.holder.ended):
            return ""
        self._judged = (newest.fence, newest.holder.ended)
        return self._judge()

    def _judge(self) -> str:
        """By the record: a controller that has come to no generation may yet want this agent, and
        one that has ended so has changed nothing."""
        events = self._run.read_events()
        begun = [event.fence for event in events if isinstance(event, GenerationStarted)]
        if begun and newest_generation(events) is None:
            return "the run has ended"
        is_past = max(begun, default=0) > self._settings.fence
        return "the run goes on without it" if is_past else ""
