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

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dougong.control.worker_messages import WorkerRaised
from dougong.deadlines import DEADLINES, Deadlines
from dougong.fault.observation import is_consequence, is_sentence
from dougong.parallel.plan import Plan, Worker
from dougong.records.events import Event, FailureDiagnosed, RunEnded, WorkerDied
from dougong.records.metrics import MetricsRow
from dougong.records.status import RunStatus
from dougong.storage.screen import Screen
from dougong.ui import formatting
from dougong.ui.log_grouping import Grouper, LogMessage
from dougong.ui.panel import draw_panel, plain_step
from dougong.ui.run_progress import RunProgress
from dougong.ui.sentences import Level, Sentence, describe, failure_words

_STYLES = {"quiet": "dim", "info": "", "good": "green", "warning": "yellow", "error": "bold red"}
_MARKS = {"quiet": "·", "info": "·", "good": "✓", "warning": "!", "error": "✗"}
_CONSEQUENCE_LENGTH = 160


class View:
    """What the controller records, shown. All methods belong to one thread (the controller's).

    Call `tick()` a few times a second: it shows grouped messages that are due and draws the panel
    anew.
    """

    def __init__(
        self,
        console: Console,
        progress: RunProgress,
        clock: Callable[[], float],
        deadlines: Deadlines,
    ) -> None:
        self._console = console
        self._progress = progress
        self._clock = clock
        self._deadlines = deadlines
        self._grouper: Grouper | None = None
        self._live: Live | None = None
        self._drawn_at = -deadlines.refresh_every_s
        self._closed = False
        self._told_phase: tuple[str, float] | None = None
        self._waited_next_s = deadlines.wait_told_s
        self._console_is_gone = False
        self._told_death: tuple[int, str, str] | None = None
        self._consequences: dict[str, str] = {}  # worker -> how it says that a peer was lost
        self._told_elsewhere: set[str] = set()  # errors that an event or the last words tell
        self._speaks_unicode = console.encoding.lower().startswith("utf")
        self._draws = console.is_terminal and not console.is_dumb_terminal and self._speaks_unicode

    def plan(self, plan: Plan, layout: bool = True) -> None:
        """Say who runs what (unless `layout` is false); from now on tokens/s is also shown for each
        island."""
        self._progress.take_plan(plan)
        self._grouper = self._grouper or Grouper(plan.workers[0].name, self._deadlines)
        if layout:
            for worker in plan.workers:
                self._print(Text(_layout_line(worker), "dim"))

    def step(self, row: MetricsRow) -> None:
        """A step is done: `row` as in metrics.jsonl."""
        now = self._clock()
        self._progress.take(row, now)
        if not self._draws:
            self._print(Text(plain_step(self._progress, now)))
        self.tick()

    def status(self, status: RunStatus) -> None:
        """How the run is, as status.json is about to say."""
        self._progress.take_status(status)

    def event(self, event: Event) -> None:
        """Something happened: an event as `RunDir.append_event` returned it."""
        self._progress.note(event, self._clock())
        sentence = _on_screen(event)
        if sentence.level != "quiet" and not self._is_known(event):
            self._say(sentence.level, sentence.text, formatting.local_clock(event.wall))
        self.tick()

    def worker_line(self, worker: str, line: str) -> None:
        """A line of a worker's output: the first worker's at once, warnings and errors grouped over
        all workers."""
        self._grouper = self._grouper or Grouper(worker, self._deadlines)
        for message in self._grouper.add(self._clock(), worker, line):
            self._show(message)
        self.tick()

    def worker_raised(self, worker: str, error: WorkerRaised) -> None:
        """The exception with which a worker's part in a generation ends. That it has only lost a
        peer is shown as a quiet line."""
        # Kept beyond the generation's end: its last messages may be shown when the next has begun.
        text = f"{error.type}: {error.message}"
        if is_consequence(error.bases):
            self._consequences[worker] = text
        elif is_sentence(error.bases):
            self._told_elsewhere.add(text)

    def tick(self) -> None:
        """Show what is due and draw the panel, at most once in `refresh_every_s`."""
        now = self._clock()
        for message in self._grouper.due(now) if self._grouper else ():
            self._show(message)
        if not self._draws:
            self._tell_long_phase(now)
            self._tell_long_wait(now)
        if self._closed or self._console_is_gone or not self._draws:
            return
        if now - self._drawn_at >= self._deadlines.refresh_every_s:
            self._drawn_at = now
            self._draw()

    def _tell_long_phase(self, now: float) -> None:
        """Plain lines have no panel that shows what a start is at: say it once where it lasts."""
        phase = self._progress.phase
        if phase is None or phase == self._told_phase:
            return
        if now - phase[1] >= self._deadlines.phase_told_s:
            self._told_phase = phase
            self._say("info", f"{self._progress.phase_words(now)} so far")

    def _tell_long_wait(self, now: float) -> None:
        """What is awaited was said when it began to be; that it still is, is said now and then."""
        awaited = self._progress.awaited
        if awaited is None:
            self._waited_next_s = self._deadlines.wait_told_s
        elif now - awaited[1] >= self._waited_next_s:
            self._waited_next_s *= 2
            self._say("info", f"still {self._progress.awaited_words(now)}")

    def settle(self, timeout_s: float) -> None:
        """Wait until the other end has all that was said, for so long at most."""
        if isinstance(self._console.file, Screen):
            self._console.file.settle(timeout_s)

    def close(self, summary: str = "") -> None:
        """Show what is still waiting, draw the last panel, give the terminal back, print the
        summary."""
        if self._closed:
            return
        self._closed = True
        try:
            for message in self._grouper.flush(self._clock()) if self._grouper else ():
                self._show(message)
            if self._live is not None and not self._console_is_gone:
                self._draw()
        finally:
            if self._live is not None and not self._console_is_gone:
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
        except (OSError, SystemExit):  # as in _print
            self._console_is_gone = True

    def _is_known(self, event: Event) -> bool:
        """A diagnosis that only repeats the death it explains is not said twice."""
        if not isinstance(event, (WorkerDied, FailureDiagnosed)):
            return False
        words = failure_words(event.failure, event.cause)
        failure = (event.generation, event.worker, words)
        if isinstance(event, WorkerDied):
            self._told_death = failure
            return False
        return failure == self._told_death and not event.evidence

    def _show(self, message: LogMessage) -> None:
        if message.text in self._told_elsewhere:
            return
        if message.level == "info":
            self._print(Text.from_ansi(message.text))
        elif self._is_consequence(message):
            self._say("quiet", _one_line(message))
        else:
            self._say(message.level, str(message))

    def _is_consequence(self, message: LogMessage) -> bool:
        """Whether these workers say no more than that a peer was lost."""
        # Messages that differ only in numbers are one, with the text of its first worker.
        known = all(worker in self._consequences for worker in message.workers)
        return known and message.text == self._consequences[message.workers[0]]

    def _say(self, level: Level, text: str, clock: str = "") -> None:
        style = _STYLES[level]
        head = f"{clock} {_MARKS[level]} ".lstrip()
        self._print(Text.assemble((head, style or "dim"), (Text.from_ansi(text).plain, style)))

    def _print(self, text: Text) -> None:
        """Whole lines whatever the width: a log is not cut or wrapped by us. Nobody watching is no
        reason to die."""
        if self._console_is_gone:
            return
        if not self._speaks_unicode:
            encoding = self._console.encoding
            text = Text(text.plain.encode(encoding, "replace").decode(encoding), text.style)
        try:
            self._console.print(text, soft_wrap=True, highlight=False)
        except (OSError, SystemExit):
            # rich turns a closed pipe into SystemExit; the run's files hold all of it.
            self._console_is_gone = True


def make_view(
    console: Console,
    job_name: str,
    steps: int,
    clock: Callable[[], float] = time.monotonic,
    deadlines: Deadlines = DEADLINES,
) -> View:
    """A view on `console`: live when it is a terminal, plain lines otherwise. `clock` is monotonic,
    in seconds."""
    return View(console, RunProgress(job_name, steps, clock()), clock, deadlines)


def _on_screen(event: Event) -> Sentence:
    """As everywhere, but for the end of a failed run: its cause is told by the command's last
    words, below the panel."""
    if isinstance(event, RunEnded) and event.refused:
        return Sentence("error", "refused: the resume has trained nothing")
    if isinstance(event, RunEnded) and event.kind == "failed":
        return Sentence("error", f"failed at step {event.step}")
    return describe(event)


def _layout_line(worker: Worker) -> str:
    where = f"{worker.node} {worker.device}".strip()
    lanes = formatting.ranges(worker.lanes) or "none"
    experts = formatting.site_experts(worker.experts) or "none"
    return f"  {worker.name}  {worker.role} on {where} · lanes {lanes} · experts {experts}"


def _one_line(message: LogMessage) -> str:
    text = f"[{formatting.worker_list(message.workers)}] follows from it: {message.text}"
    if len(text) <= _CONSEQUENCE_LENGTH:
        return text
    return text[: _CONSEQUENCE_LENGTH - 3] + "..."
