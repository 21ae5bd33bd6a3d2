"""What is true of a run now, and how it is drawn: the panel of the live view and the plain line of
a step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dougong.records.events import (
    CheckpointCommitted,
    CheckpointRejected,
    Event,
    GenerationStarted,
    RunEnded,
    StateChanged,
    WorkerDied,
)
from dougong.records.metrics import MetricsRow
from dougong.ui.formatting import count, duration, loss, plural

_SPARKS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {
    "running": "bold green",
    "finished": "bold green",
    "failed": "bold red",
    "stopped": "bold yellow",
}
_STATES_WITHOUT_PACE = ("recovering", "finished", "stopped", "failed")
_KEPT_LOSSES = 2000
_SHOWN_ISLANDS = 6


@dataclass(frozen=True)
class NewestCheckpoint:
    """`committed_at`: seconds of the view's clock; None for one that the run was resumed from."""

    name: str
    committed_at: float | None


@dataclass
class RunProgress:
    """The run as far as events and rows have come; times are seconds of the view's clock.

    `shares`: the part of all lanes that each island runs. `arrivals`: when the last steps came.
    """

    job_name: str
    steps: int
    started_at: float
    state: str = "starting"
    generation: int = 1
    row: MetricsRow | None = None
    validation: tuple[int, float] | None = None
    checkpoint: NewestCheckpoint | None = None
    failures: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    losses: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_KEPT_LOSSES))
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def take(self, row: MetricsRow, now: float) -> None:
        """A step's row: a step that comes again drops what was rewound."""
        self._rewind(row["step"])
        self.row, self.generation = row, row["attempt"]
        self.losses.append((row["step"], row["loss"]))
        self.arrivals.append((now, row["step"]))
        if row.get("val_loss") is not None:
            self.validation = (row["step"], row["val_loss"])

    def note(self, event: Event, now: float) -> None:
        """What an event changes: the newest checkpoint, the pace, the number of failures, the
        state."""
        self.generation = max(self.generation, event.generation)
        match event:
            case StateChanged():
                self.state = event.state.lower()
            case RunEnded():
                self.state = event.kind
            case GenerationStarted():
                self.arrivals.clear()
                if event.resume is not None and self.checkpoint is None:
                    self.checkpoint = NewestCheckpoint(event.resume, None)
            case CheckpointCommitted():
                self.checkpoint = NewestCheckpoint(f"step {event.step}", now)
            case CheckpointRejected():
                self.checkpoint = None
            case WorkerDied():
                self.failures += 1
            case _:
                pass

    def eta_s(self, now: float) -> float | None:
        """Seconds left at the pace of the last steps, checkpoints and validation counted; None
        when unknown."""
        if self.row is None or not self.arrivals or self.state in _STATES_WITHOUT_PACE:
            return None
        (first_at, first), (last_at, last) = self.arrivals[0], self.arrivals[-1]
        step_s = float(self.row["step_s"])
        if last > first:
            step_s = (last_at - first_at) / (last - first)
        return max((self.steps - last) * step_s - (now - last_at), 0.0)

    def island_rates(self) -> dict[str, float]:
        """Tokens/s of each island that runs lanes: its own number when the row has it, else its
        share of the lanes."""
        if self.row is None:
            return {}
        rates = {}
        for island, times in self.row.get("islands", {}).items():
            shared = self.shares.get(island, 0.0) * self.row["tokens_per_s"]
            rate = times.get("tokens_per_s", shared)
            if rate:
                rates[island] = rate
        return rates

    def _rewind(self, step: int) -> None:
        """Forget what was known of `step` and later ones."""
        while self.losses and self.losses[-1][0] >= step:
            self.losses.pop()
        if self.arrivals and self.arrivals[-1][1] >= step:
            self.arrivals.clear()
        if self.validation is not None and self.validation[0] >= step:
            self.validation = None


def plain_step(progress: RunProgress, now: float) -> str:
    """One line for the newest step, for logs and pipes: words and numbers, no colour, no column
    moves."""
    row = progress.row or {}
    width = len(str(progress.steps))
    parts = [f"step {row['step']:>{width}}/{progress.steps}", f"loss {loss(row['loss'])}"]
    if row.get("val_loss") is not None:
        parts.append(f"val {loss(row['val_loss'])}")
    parts.append(_rate_words(progress, row))
    if row.get("grad_norm") is not None:
        parts.append(f"grad {row['grad_norm']:#.3g}")
    if row.get("lr") is not None:
        parts.append(f"lr {row['lr']:.2e}")
    if row.get("step_s") is not None:
        parts.append(duration(row["step_s"]))
    eta = progress.eta_s(now)
    if eta is not None and row["step"] < progress.steps:
        parts.append(f"eta {duration(eta)}")
    if progress.generation > 1:
        parts.append(f"generation {progress.generation}")
    return "  ".join(parts)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of some numbers in `width` characters at most, lowest to highest; gaps where they
    are not finite."""
    width = min(width, len(values))
    if width < 2:
        return ""
    means = [_bucket_mean(values, i, width) for i in range(width)]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    sparks = ""
    for mean in means:
        sparks += _SPARKS[round((mean - low) * scale)] if math.isfinite(mean) else " "
    return sparks


def draw_panel(progress: RunProgress, now: float, width: int) -> RenderableType:
    """The panel: state, bar, loss, speed, checkpoint. Lines are cut at `width`, never wrapped."""
    lines: list[RenderableType] = [_head(progress, now, width), _bar(progress, now, width)]
    if progress.row is not None:
        lines += [_loss_line(progress, progress.row, width), *_speed_lines(progress, progress.row)]
    lines.append(_checkpoint_line(progress, now))
    return Group(Text(""), *lines)


def _rate_words(progress: RunProgress, row: MetricsRow) -> str:
    """Tokens/s in all and, where there are several islands, of each."""
    words = f"{count(row['tokens_per_s'])} tokens/s"
    rates = progress.island_rates()
    if len(rates) < 2:
        return words
    islands = [f"{island} {count(rate)}" for island, rate in rates.items()]
    return f"{words} ({', '.join(islands)})"


def _bucket_mean(values: Sequence[float], index: int, buckets: int) -> float:
    bucket = values[index * len(values) // buckets : (index + 1) * len(values) // buckets]
    return sum(bucket) / len(bucket)


def _head(progress: RunProgress, now: float, width: int) -> Table:
    style = _STATE_STYLES.get(progress.state, "bold cyan")
    left = Text.assemble((f" {progress.job_name}", "bold"), "  ", ("● " + progress.state, style))
    facts = [f"generation {progress.generation}"]
    if progress.failures:
        facts.append(plural(progress.failures, "failure"))
    facts.append(duration(now - progress.started_at))
    right = Text(" · ".join(facts) + " ", "dim")
    grid = Table.grid(padding=0, expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.width = width
    grid.add_row(left, right)
    return grid


def _bar(progress: RunProgress, now: float, width: int) -> Table:
    step = progress.row["step"] if progress.row else 0
    eta = progress.eta_s(now)
    left = f" step {step:>{len(str(progress.steps))}}/{progress.steps} "
    right = f" {100 * step / progress.steps:3.0f} %"
    right += f"  {duration(eta)} left " if eta is not None else " "
    bar_width = max(width - len(left) - len(right), 4)
    bar = ProgressBar(
        progress.steps, step, bar_width, complete_style="cyan", finished_style="green"
    )
    grid = Table.grid(padding=0)
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_row(Text(left), bar, Text(right))
    return grid


def _loss_line(progress: RunProgress, row: MetricsRow, width: int) -> Text:
    style = "bold" if math.isfinite(row["loss"]) else "bold red"
    line = Text.assemble(" loss ", (loss(row["loss"]), style))
    losses = [value for _, value in progress.losses]
    line.append(f"  {sparkline(losses, min(max(width - 60, 8), 40))}", "cyan")
    if progress.validation is not None:
        step, value = progress.validation
        line.append("  validation ").append(loss(value), "bold").append(f" at step {step}", "dim")
    return _cut(line)


def _speed_lines(progress: RunProgress, row: MetricsRow) -> list[Text]:
    """Tokens/s in all; one island on the same line, several on a line each."""
    total = Text.assemble(" tokens/s ", (count(row["tokens_per_s"]), "bold"))
    islands, rates = row.get("islands", {}), progress.island_rates()
    if len(islands) == 1:
        (name,) = islands
        return [_cut(total.append(f"  {name}  {_times(islands[name])}", "dim"))]
    lines = [_cut(total)]
    widest = max(map(len, islands), default=0)
    for name in list(islands)[:_SHOWN_ISLANDS]:
        rate = count(rates[name]) if name in rates else ""
        line = Text(f"   {name:<{widest}} {rate:>9}  ")
        lines.append(_cut(line.append(_times(islands[name]), "dim")))
    hidden = len(islands) - _SHOWN_ISLANDS
    if hidden > 0:
        lines.append(Text(f"   and {hidden} more islands", "dim"))
    return lines


def _times(times: Mapping[str, float | None]) -> str:
    """Where an island's step went."""
    words = []
    for key, name in (("compute_s", "compute"), ("exchange_s", "exchange")):
        seconds = times.get(key)
        if seconds is not None:
            words.append(f"{name} {duration(seconds)}")
    return ", ".join(words)


def _checkpoint_line(progress: RunProgress, now: float) -> Text:
    line = Text(" checkpoint ")
    checkpoint = progress.checkpoint
    if checkpoint is None:
        line.append("none yet", "dim")
    else:
        line.append(checkpoint.name, "bold").append(_age(checkpoint, now), "dim")
    row = progress.row or {}
    for key, label, form in (("grad_norm", "gradient norm", "#.3g"), ("lr", "lr", ".2e")):
        if row.get(key) is not None:
            line.append(f"  {label} ", "dim").append(f"{row[key]:{form}}")
    return _cut(line)


def _age(checkpoint: NewestCheckpoint, now: float) -> str:
    if checkpoint.committed_at is None:
        return " (resumed from)"
    return f", {duration(now - checkpoint.committed_at)} ago"


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
