"""The run on the screen: a live panel on a terminal, one plain line per step anywhere else. It
decides nothing.

What must not be lost (failures, warnings, decisions, checkpoints, worker 0's lines) is printed
above the panel and stays in the scroll-back; the panel itself holds only what is true now. The
cursor is never hidden, so a run killed without warning leaves the terminal as it was. `close` may
be called twice and at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dougong.control.worker_messages import WorkerRaised
from dougong.fault.observation import is_consequence
from dougong.parallel.plan import Plan
from dougong.records.directory import MetricsRow
from dougong.records.events import Event, to_json
from dougong.ui import formatting
from dougong.ui.log_grouping import Grouper, LogMessage
from dougong.ui.panel import RunProgress, draw_panel, plain_step

_STYLES = {"quiet": "dim", "info": "", "good": "green", "warning": "yellow", "error": "bold red"}
_ECHO_LENGTH = 160
_MARKS = {"quiet": "·", "info": "·", "good": "✓", "warning": "!", "error": "✗"}


class View:
    """What the controller tells, shown. All methods belong to one thread (the controller's).

    Call `tick()` a few times a second: it tells grouped messages that are due and draws the panel
    anew.
    """

    def __init__(
        self, console: Console, progress: RunProgress, clock: Callable[[], float], refresh_s: float
    ) -> None:
        self._console = console
        self._progress = progress
        self._clock = clock
        self._refresh_s = refresh_s
        self._grouper: Grouper | None = None
        self._live: Live | None = None
        self._drawn_at = -refresh_s
        self._closed = False
        self._last_failure: tuple[Any, str] | None = None
        self._gone = False
        self._followers: set[str] = set()
        self._speaks_unicode = console.encoding.lower().startswith("utf")
        self._draws = console.is_terminal and not console.is_dumb_terminal and self._speaks_unicode

    def plan(self, plan: Plan, layout: bool = True) -> None:
        """Say who runs what (unless `layout` is false); from now on tokens/s is also told for each
        island."""
        lanes = {worker.island: 0 for worker in plan.workers}
        for worker in plan.workers:
            lanes[worker.island] += len(worker.lanes)
        self._progress.shares = {
            island: number / plan.num_lanes for island, number in lanes.items()
        }
        self._grouper = self._grouper or Grouper(plan.workers[0].name)
        for worker in plan.workers if layout else ():
            lanes_text, experts = (
                formatting.ranges(worker.lanes) or "none",
                formatting.site_experts(worker.experts) or "none",
            )
            where = f"{worker.node} {worker.device}".strip()
            self._print(
                Text(
                    f"  {worker.name}  {worker.role} on {where} · lanes {lanes_text} · experts {experts}",
                    "dim",
                )
            )

    def step(self, row: MetricsRow) -> None:
        """A step is done: `row` as in metrics.jsonl."""
        now = self._clock()
        self._progress.take(row, now)
        if not self._draws:
            self._print(Text(plain_step(self._progress, now)))
        self.tick()

    def event(self, event: Event) -> None:
        """Something happened: an event as `RunDir.append_event` returned it."""
        self._show(to_json(event))

    def _show(self, event: dict[str, Any]) -> None:
        self._progress.generation = max(self._progress.generation, event["generation"])
        self._progress.note(event, self._clock())
        sentence = formatting.describe(event)
        if sentence.level != "quiet" and not self._told_already(event):
            self._say(
                sentence.level, sentence.text, formatting.local_clock(str(event.get("wall", "")))
            )
        self.tick()

    def worker_line(self, worker: str, line: str) -> None:
        """A line of a worker's output: the first worker's at once, warnings and errors grouped over
        all workers."""
        self._grouper = self._grouper or Grouper(worker)
        for message in self._grouper.add(self._clock(), worker, line):
            self._message(message)
        self.tick()

    def worker_raised(self, worker: str, error: WorkerRaised) -> None:
        """With which exception a worker ends; its traceback may come before or after."""
        if is_consequence(error.bases):
            self._followers.add(worker)

    def _follows(self, message: LogMessage) -> bool:
        """A traceback that only says that a peer was lost: one line is enough, the log has the
        rest."""
        is_traceback = message.level == "error" and "\n" in message.text
        return is_traceback and self._followers.issuperset(message.workers)

    def state(self, state: str, generation: int) -> None:
        """The controller's state, such as RUNNING, and the generation."""
        self._progress.state, self._progress.generation = state.lower(), max(generation, 1)
        self.tick()

    def tick(self) -> None:
        """Tell what is due and draw the panel, at most once in `refresh_s`."""
        now = self._clock()
        for message in self._grouper.due(now) if self._grouper else ():
            self._message(message)
        if self._closed or self._gone or not self._draws or now - self._drawn_at < self._refresh_s:
            return
        self._drawn_at = now
        self._draw()

    def close(self, summary: str = "") -> None:
        """Tell what is still waiting, draw the last panel, give the terminal back, print the
        summary."""
        if self._closed:
            return
        self._closed = True
        try:
            for message in self._grouper.flush(self._clock()) if self._grouper else ():
                self._message(message)
            if self._live is not None and not self._gone:
                self._draw()
        finally:
            if self._live is not None and not self._gone:
                self._live.stop()
        if summary:
            self._print(Text(summary))

    def __enter__(self) -> View:
        """The view itself; leaving the block closes it, whatever happened inside."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close: the exception, if any, goes on and is printed below the panel."""
        self.close()

    def _draw(self) -> None:
        panel = draw_panel(self._progress, self._clock(), self._console.width)
        try:
            if self._live is None:
                self._live = Live(
                    panel, console=self._console, auto_refresh=False, vertical_overflow="crop"
                )
                self._live.start()
                self._console.show_cursor(True)
            self._live.update(panel, refresh=True)
        except (OSError, SystemExit):
            self._gone = True

    def _told_already(self, event: dict[str, Any]) -> bool:
        """A diagnosis that only repeats the death it explains is not told twice."""
        if event["kind"] not in ("worker_died", "diagnosis"):
            return False
        failure = (event.get("worker"), formatting.cause_of(event))
        told, self._last_failure = failure == self._last_failure, failure
        return told

    def _message(self, message: LogMessage) -> None:
        if message.level == "info":
            self._print(Text.from_ansi(message.text))
        elif self._follows(message):
            told = f"[{formatting.worker_list(message.workers)}] follows from it: {message.text.splitlines()[-1]}"
            self._say(
                "quiet", told if len(told) <= _ECHO_LENGTH else told[: _ECHO_LENGTH - 3] + "..."
            )
        else:
            self._say(message.level, str(message))

    def _say(self, level: str, text: str, clock: str = "") -> None:
        style = _STYLES[level]
        head = f"{clock} {_MARKS[level]} ".lstrip()
        self._print(Text.assemble((head, style or "dim"), (Text.from_ansi(text).plain, style)))

    def _print(self, text: Text) -> None:
        """Whole lines whatever the width: a log is not cut or wrapped by us. Nobody watching is no
        reason to die."""
        if self._gone:
            return
        if not self._speaks_unicode:
            text = Text(
                text.plain.encode(self._console.encoding, "replace").decode(self._console.encoding),
                text.style,
            )
        try:
            self._console.print(text, soft_wrap=True, highlight=False)
        except (
            OSError,
            SystemExit,
        ):  # rich turns a closed pipe into SystemExit; the run's files hold all of it
            self._gone = True


def make_view(
    console: Console,
    job_name: str,
    steps: int,
    clock: Callable[[], float] = time.monotonic,
    refresh_s: float = 0.25,
) -> View:
    """A view on `console`: live when it is a terminal, plain lines otherwise. `clock` is monotonic,
    in seconds."""
    return View(console, RunProgress(job_name, steps, clock()), clock, refresh_s)
