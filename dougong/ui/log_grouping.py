"""What many workers print, shown once: equal warnings and errors become one message with a list of
its workers.

Pure: time is a number that the caller passes in (seconds of any monotonic clock). An agent uses one
`Classifier` per worker to see which lines are worth sending; the controller feeds what arrives to
one `Grouper`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from dougong.deadlines import Deadlines
from dougong.ui.formatting import worker_list

LineLevel = Literal["info", "warning", "error"]

_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# torch writes it before every line of an uncaught exception.
_PREFIX = re.compile(r"^\[rank\d+\]: ?")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEAD = 160  # a level's word stands near the beginning of a line
# The levels are those of other people's programs: Python's logging and warnings, exceptions, glog
# (gloo and NCCL write so), libc++ and the kernel. Text is all that they give.
_ERROR = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^error: |^[\w.]*(?:Error|Exception|Interrupt)(?:: |$)"
    r"|^\[?[EF]\d{4,8} \d\d:|Fatal Python error|terminate called|Segmentation fault|Out of memory"
)
_WARNING = re.compile(r"\bWARN(?:ING)?\b|^warning: |\b\w*Warning: |^\[?W\d{4,8} \d\d:")
# Our workers ask no name server for the names of those that they connect to (`parallel.comm`), and
# torch says so of each.
_NO_NAME = re.compile(
    r"^\[W[\d:. ]+ socket\.cpp:\d+\] \[c10d\] The hostname of the client socket cannot be retrieved"
    r"\. err=-\d+$"
)
# In this order: an identifier or a path holds numbers.
_MASKS = (
    (re.compile(r"0x[0-9a-fA-F]+"), "<address>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"(?<![\w/])(?:/[\w.+@-]+)+/?"), "<path>"),
    (re.compile(r"\b[A-Za-z][\w-]*/\d+\b"), "<worker>"),
    (re.compile(r"[-+]?\d+(?:\.\d+)*(?:[eE][-+]?\d+)?"), "#"),
)


def mask(text: str) -> str:
    """The text with what differs between workers taken out: addresses, identifiers, paths, workers,
    numbers."""
    for pattern, sign in _MASKS:
        text = pattern.sub(sign, text)
    return text


def says_nothing(line: str) -> bool:
    """Whether a line of a worker is of no use to anybody: it is in the log, and nowhere else."""
    return _NO_NAME.match(_bare(line)) is not None


@dataclass
class Classifier:
    """Finds the level of each line of one worker's output and whether it begins a new message.

    A traceback is one error from its first line to the exception's line, chained ones included; an
    indented line belongs to what stands above it.
    """

    _state: Literal["plain", "traceback", "raised"] = "plain"
    _level: LineLevel = "info"

    def feed(self, line: str) -> tuple[LineLevel, bool]:
        """The line's level, and True when it begins a message."""
        text = _bare(line)
        if text.endswith(_TRACEBACK):
            begins = self._state == "plain"
            self._state, self._level = "traceback", "error"
            return "error", begins
        if self._state == "traceback":
            # Its frames are indented; the first line that is not names the exception.
            if text and not text[0].isspace():
                self._state = "raised"
            return "error", False
        if self._state == "raised" and (not text or text.startswith(_CHAINED)):
            return "error", False
        self._state = "plain"
        if text[:1].isspace():
            return self._level, False
        self._level = _level_of(text[:_HEAD])
        return self._level, True


@dataclass(frozen=True)
class LogMessage:
    """Something that workers printed. `varied`: their texts differ in numbers, paths or addresses;
    `text` is the first."""

    level: LineLevel
    text: str
    workers: tuple[str, ...]
    count: int = 1
    varied: bool = False

    def __str__(self) -> str:
        text = f"[{worker_list(self.workers)}] {self.text}"
        if self.varied:
            text += " (values differ)"
        if self.count > len(self.workers):
            text += f" ({self.count} times)"
        return text


@dataclass
class _OpenMessage:
    """Lines of one worker that make one message, as they arrive."""

    level: LineLevel
    lines: list[str]
    last_at: float


@dataclass
class _Group:
    """Equal messages. `due_at` is when they are shown; after that the group stays quiet for a
    while. `texts` holds two at most: one to show, and whether another one differs."""

    level: LineLevel
    due_at: float
    texts: dict[str, None] = field(default_factory=dict)
    workers: dict[str, None] = field(default_factory=dict)
    count: int = 0

    def add(self, worker: str, text: str) -> None:
        if len(self.texts) < 2:
            self.texts[text] = None
        self.workers[worker] = None
        self.count += 1

    def message(self) -> LogMessage:
        first, *others = self.texts
        return LogMessage(self.level, first, tuple(self.workers), self.count, bool(others))


class Grouper:
    """Collects lines of all workers; `add`, `due` and `flush` return the messages to show now, in
    order.

    Lines of `first_worker` that are neither warning nor error pass through at once; the others' are
    dropped (they are in their logs). A warning or error waits `log_collect_s` for its equals; the
    same again within `log_quiet_s` is only counted. A message of several lines is whole when
    `log_settle_s` have passed since its last one. At most about `capacity` messages are remembered.
    """

    def __init__(self, first_worker: str, deadlines: Deadlines, capacity: int = 500) -> None:
        self._first_worker = first_worker
        self._deadlines = deadlines
        self._capacity = capacity
        self._classifiers: dict[str, Classifier] = {}
        self._blocks: dict[str, _OpenMessage] = {}
        self._groups: OrderedDict[tuple[LineLevel, str], _Group] = OrderedDict()

    def add(self, now: float, worker: str, line: str) -> list[LogMessage]:
        """Take one line (without its newline)."""
        level, begins = self._classifiers.setdefault(worker, Classifier()).feed(line)
        block = self._blocks.get(worker)
        if block is not None and block.level == level and not begins:
            block.lines.append(line)
            block.last_at = now
        elif level != "info":
            self._end_block(worker)
            self._blocks[worker] = _OpenMessage(level, [line], now)
        messages = self.due(now)
        if level == "info" and worker == self._first_worker:
            messages.append(LogMessage("info", line, (worker,)))
        return messages

    def due(self, now: float) -> list[LogMessage]:
        """What has waited long enough. Call it a few times a second."""
        for worker, block in list(self._blocks.items()):
            if now - block.last_at >= self._deadlines.log_settle_s:
                self._end_block(worker)
        return self._take([key for key, group in self._groups.items() if group.due_at <= now], now)

    def flush(self, now: float) -> list[LogMessage]:
        """Everything that has not been shown, at once: at the end of a generation or of the
        run."""
        for worker in list(self._blocks):
            self._end_block(worker)
        return self._take(list(self._groups), now)

    def _end_block(self, worker: str) -> None:
        """The worker's message is whole: it joins its equals."""
        block = self._blocks.pop(worker, None)
        if block is None:
            return
        text = "\n".join(map(_bare, block.lines)).rstrip()
        key = (block.level, mask(text))
        due_at = block.last_at + self._deadlines.log_collect_s
        group = self._groups.setdefault(key, _Group(block.level, due_at))
        group.add(worker, text)
        self._forget_oldest()

    def _take(self, keys: list[tuple[LineLevel, str]], now: float) -> list[LogMessage]:
        """The messages of these groups. One that has come again while it was quiet starts another
        quiet time; one that has not is forgotten when its quiet time is over."""
        messages = []
        # A new group in the old one's place keeps that place: messages come in the order in which
        # they were first seen.
        for key in keys:
            group = self._groups[key]
            if group.count:
                messages.append(group.message())
                self._groups[key] = _Group(group.level, now + self._deadlines.log_quiet_s)
            elif group.due_at <= now:
                del self._groups[key]
        return messages

    def _forget_oldest(self) -> None:
        """Bounded memory under a storm of unlike messages: of the groups that have nothing to show,
        the oldest goes."""
        if len(self._groups) <= self._capacity:
            return
        quiet = next((key for key, group in self._groups.items() if not group.count), None)
        if quiet is not None:
            del self._groups[quiet]


def _bare(line: str) -> str:
    return _PREFIX.sub("", _COLOUR.sub("", line).rstrip())


def _level_of(head: str) -> LineLevel:
    if _ERROR.search(head):
        return "error"
    return "warning" if _WARNING.search(head) else "info"
