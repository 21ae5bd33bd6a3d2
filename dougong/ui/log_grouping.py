"""What many workers say, told once: equal warnings and errors become one message with a list of its
workers.

Pure: time is a number that the caller passes in (seconds of any monotonic clock). An agent uses one
`Classifier` per worker to see which lines are worth sending; the controller feeds what arrives to
one `Grouper`.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from dougong.ui.formatting import worker_list

LineLevel = Literal["info", "warning", "error"]

_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_PREFIX = re.compile(
    r"^\[rank\d+\]: ?"
)  # torch writes it before every line of an uncaught exception
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEAD = 160  # a level's word stands near the beginning of a line
_ERROR = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^error: |^[\w.]*(?:Error|Exception|Interrupt)(?:: |$)"
    r"|^\[?[EF]\d{4,8} \d\d:|Fatal Python error|terminate called|Segmentation fault|Out of memory"
)
_WARNING = re.compile(r"\bWARN(?:ING)?\b|^warning: |\b\w*Warning: |^\[?W\d{4,8} \d\d:")
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


def _bare(line: str) -> str:
    return _PREFIX.sub("", _COLOUR.sub("", line).rstrip())


def _level_of(head: str) -> LineLevel:
    return "error" if _ERROR.search(head) else "warning" if _WARNING.search(head) else "info"


@dataclass
class Classifier:
    """Tells the level of each line of one worker's output and whether it begins a new message.

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
    """Something that workers said. `varied`: their texts differ in numbers, paths or addresses;
    `text` is the first."""

    level: LineLevel
    text: str
    workers: tuple[str, ...]
    count: int = 1
    varied: bool = False

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > len(self.workers) else ""
        return (
            f"[{worker_list(self.workers)}] {self.text}"
            + (" (values differ)" if self.varied else "")
            + times
        )


@dataclass
class _TracebackBlock:
    """Lines of one worker that make one message, as they arrive."""

    level: LineLevel
    lines: list[str]
    last_at: float


@dataclass
class _Group:
    """Messages alike. `due_at` is when they are told; after that the group stays quiet for a
    while."""

    level: LineLevel
    due_at: float
    texts: dict[str, None] = field(default_factory=dict)
    workers: dict[str, None] = field(default_factory=dict)
    count: int = 0


class Grouper:
    """Collects lines of all workers; `add`, `due` and `flush` return the messages to show now, in
    order.

    Lines of `first_worker` that are neither warning nor error pass through at once; the others' are
    dropped (they are in their logs). A warning or error waits `window_s` for its likes; the same
    again within `quiet_s` is only counted.
    """

    def __init__(
        self,
        first_worker: str,
        window_s: float = 0.5,
        quiet_s: float = 60.0,
        settle_s: float = 0.2,
        capacity: int = 500,
    ) -> None:
        self._first_worker = first_worker
        self._window_s = window_s
        self._quiet_s = quiet_s
        self._settle_s = settle_s
        self._capacity = capacity
        self._classifiers: dict[str, Classifier] = {}
        self._blocks: dict[str, _TracebackBlock] = {}
        self._groups: OrderedDict[tuple[LineLevel, str], _Group] = OrderedDict()

    def add(self, now: float, worker: str, line: str) -> list[LogMessage]:
        """Take one line (without its newline)."""
        level, begins = self._classifiers.setdefault(worker, Classifier()).feed(line)
        block = self._blocks.get(worker)
        if block is not None and not begins and block.level == level:
            block.lines.append(line)
            block.last_at = now
        elif level != "info":
            self._close(now, worker)
            self._blocks[worker] = _TracebackBlock(level, [line], now)
        passed = (
            [LogMessage("info", line, (worker,))]
            if level == "info" and worker == self._first_worker
            else []
        )
        return self.due(now) + passed

    def due(self, now: float) -> list[LogMessage]:
        """What has waited long enough. Call it a few times a second."""
        for worker in [w for w, b in self._blocks.items() if now - b.last_at >= self._settle_s]:
            self._close(now, worker)
        return self._tell([key for key, g in self._groups.items() if g.due_at <= now], now)

    def flush(self, now: float) -> list[LogMessage]:
        """Everything that has not been told, at once: at the end of a generation or of the run."""
        for worker in list(self._blocks):
            self._close(now, worker)
        return self._tell(list(self._groups), now)

    def _close(self, now: float, worker: str) -> None:
        block = self._blocks.pop(worker, None)
        if block is None:
            return
        text = "\n".join(map(_bare, block.lines)).rstrip()
        key = (block.level, mask(text))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(block.level, block.last_at + self._window_s)
            self._forget_oldest()
        if len(group.texts) < 2:
            group.texts[text] = None
        group.workers[worker] = None
        group.count += 1

    def _tell(self, keys: list[tuple[LineLevel, str]], now: float) -> list[LogMessage]:
        told = []
        for key in keys:
            group = self._groups[key]
            if group.count:
                texts = list(group.texts)
                told.append(
                    LogMessage(
                        group.level, texts[0], tuple(group.workers), group.count, len(texts) > 1
                    )
                )
                self._groups[key] = _Group(group.level, now + self._quiet_s)
            elif group.due_at <= now:
                del self._groups[key]
        return told

    def _forget_oldest(self) -> None:
        """Bounded memory under a storm of unlike messages: quiet groups are forgotten first, oldest
        first."""
        if len(self._groups) > self._capacity:
            quiet = next((key for key, group in self._groups.items() if not group.count), None)
            if quiet is not None:
                del self._groups[quiet]
