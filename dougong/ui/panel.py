"""What is true of a run now, and how it is drawn: the panel of the live view and the plain line of
a step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dougong.ui.formatting import FINAL_KINDS, count, duration

_SPARKS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {
    "running": "bold green",
    "finished": "bold green",
    "failed": "bold red",
    "stopped": "bold yellow",
}
_KEPT_LOSSES = 2000


@dataclass
class RunProgress:
    """The run as the controller has told it so far; times are seconds of the view's clock."""

    job_name: str
    steps: int
    started_at: float
    state: str = "starting"
    generation: int = 1
    row: dict[str, Any] | None = None
    validation: tuple[int, float] | None = None
    checkpoint: tuple[str, float | None] | None = None
    failures: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    losses: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_KEPT_LOSSES))
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def take(self, row: dict[str, Any], now: float) -> None:
        """A step's row: a step that comes again drops what was rewound."""
        step = row["step"]
        while self.losses and self.losses[-1][0] >= step:
            self.losses.pop()
        if self.arrivals and self.arrivals[-1][1] >= step:
            self.arrivals.clear()
        if self.validation is not None and self.validation[0] >= step:
            self.validation = None
        self.losses.append((step, row["loss"]))
        self.arrivals.append((now, step))
        self.row, self.generation = row, row["attempt"]
        if row.get("val_loss") is not None:
            self.validation = (step, row["val_loss"])

    def note(self, event: dict[str, Any], now: float) -> None:
        """What an event changes: the newest checkpoint, the pace, the number of failures, the state
        at the end."""
        kind = event["kind"]
        if kind == "checkpoint_committed":
            self.checkpoint = (f"step {event.get('step', '?')}", now)
        elif kind == "generation_started":
            self.arrivals.clear()
            if event.get("resume") and self.checkpoint is None:
                self.checkpoint = (str(event["resume"]).rstrip("/").rpartition("/")[2], None)
        elif kind == "checkpoint_rejected":
            self.checkpoint = None
        elif kind == "worker_died":
            self.failures += 1
        elif kind in FINAL_KINDS:
            self.state = kind

    def eta_s(self, now: float) -> float | None:
        """Seconds left at the pace of the last steps , checkpoints and validation counted; None
        when unknown."""
        if self.row is None or not self.arrivals or self.state in (*FINAL_KINDS, "recovering"):
            return None
        (first_at, first), (last_at, last) = self.arrivals[0], self.arrivals[-1]
        pace = (last_at - first_at) / (last - first) if last > first else float(self.row["step_s"])
        return max((self.steps - last) * pace - (now - last_at), 0.0)

    def island_rates(self) -> dict[str, float]:
        """Tokens/s of each island that runs lanes: its own number when the row has it, else its
        share of the lanes."""
        if self.row is None:
            return {}
        rates = {}
        for island, times in self.row.get("islands", {}).items():
            rate = times.get(
                "tokens_per_s", self.shares.get(island, 0.0) * self.row["tokens_per_s"]
            )
            if rate:
                rates[island] = rate
        return rates


def plain_step(progress: RunProgress, now: float) -> str:
    """One line for the newest step, for logs and pipes: words and numbers, no colour, no column
    moves."""
    row = progress.row or {}
    width = len(str(progress.steps))
    parts = [f"step {row['step']:>{width}}/{progress.steps}", f"loss {number(row['loss'])}"]
    if row.get("val_loss") is not None:
        parts.append(f"val {number(row['val_loss'])}")
    rates = progress.island_rates()
    islands = ", ".join(f"{island} {count(rate)}" for island, rate in rates.items())
    parts.append(
        f"{count(row['tokens_per_s'])} tokens/s" + (f" ({islands})" if len(rates) > 1 else "")
    )
    parts += [f"grad {row['grad_norm']:#.3g}"] if row.get("grad_norm") is not None else []
    parts += [f"lr {row['lr']:.2e}"] if row.get("lr") is not None else []
    parts += [duration(row["step_s"])] if row.get("step_s") is not None else []
    eta = progress.eta_s(now)
    parts += [f"eta {duration(eta)}"] if eta is not None and row["step"] < progress.steps else []
    parts += [f"generation {progress.generation}"] if progress.generation > 1 else []
    return "  ".join(parts)


def number(value: float) -> str:
    """A loss: four decimals, as the field reads it; a broken one in words."""
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of some numbers in `width` characters at most, lowest to highest; gaps where they
    are not finite."""
    width = min(width, len(values))
    if width < 2:
        return ""
    buckets = [
        values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)
    ]
    means = [sum(b) / len(b) for b in buckets]
    finite = [m for m in means if math.isfinite(m)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((m - low) * scale)] if math.isfinite(m) else " " for m in means)


def draw_panel(progress: RunProgress, now: float, width: int) -> RenderableType:
    """The panel: state, bar, loss, speed, checkpoint. Lines are cut at `width`, never wrapped."""
    lines: list[RenderableType] = [_head(progress, now, width), _bar(progress, now, width)]
    if progress.row is not None:
        lines += [_loss_line(progress, width), *_speed_lines(progress)]
    lines.append(_checkpoint_line(progress, now))
    return Group(Text(""), *lines)


def _head(progress: RunProgress, now: float, width: int) -> Table:
    style = _STATE_STYLES.get(progress.state, "bold cyan")
    left = Text.assemble((f" {progress.job_name}", "bold"), "  ", ("● " + progress.state, style))
    facts = [f"generation {progress.generation}"]
    facts += (
        [f"{progress.failures} failure" + ("s" if progress.failures > 1 else "")]
        if progress.failures
        else []
    )
    right = Text(" · ".join([*facts, duration(now - progress.started_at)]) + " ", "dim")
    return _sides(left, right, width)


def _bar(progress: RunProgress, now: float, width: int) -> Table:
    step = progress.row["step"] if progress.row else 0
    eta = progress.eta_s(now)
    left = f" step {step:>{len(str(progress.steps))}}/{progress.steps} "
    right = f" {100 * step / progress.steps:3.0f} %" + (
        f"  {duration(eta)} left " if eta is not None else " "
    )
    bar_width = max(width - len(left) - len(right), 4)
    grid = Table.grid(padding=0)
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_row(
        Text(left),
        ProgressBar(progress.steps, step, bar_width, complete_style="cyan", finished_style="green"),
        Text(right),
    )
    return grid


def _loss_line(progress: RunProgress, width: int) -> Text:
    row = progress.row or {}
    broken = not math.isfinite(row["loss"])
    line = Text.assemble(
        " loss ", (number(row["loss"]), "bold red" if broken else "bold"), no_wrap=True
    )
    spark = sparkline([loss for _, loss in progress.losses], min(max(width - 60, 8), 40))
    line.append(f"  {spark}", "cyan")
    if progress.validation is not None:
        step, value = progress.validation
        line.append("  validation ").append(number(value), "bold").append(f" at step {step}", "dim")
    return _cut(line)


_TIMES = (("compute_s", "compute"), ("exchange_s", "exchange"))
_SHOWN_ISLANDS = 6


def _speed_lines(progress: RunProgress) -> list[Text]:
    """Tokens/s in all; one island on the same line, several on a line each."""
    row = progress.row or {}
    total = Text.assemble(" tokens/s ", (count(row["tokens_per_s"]), "bold"))
    islands, rates = row.get("islands", {}), progress.island_rates()
    if len(islands) == 1:
        (name,) = islands
        return [_cut(total.append(f"  {name}  ", "dim").append(_spent(islands[name]), "dim"))]
    widest = max(map(len, islands), default=0)
    lines = [_cut(total)]
    for name in list(islands)[:_SHOWN_ISLANDS]:
        line = Text(f"   {name:<{widest}} {count(rates[name]) if name in rates else '':>9}  ")
        lines.append(_cut(line.append(_spent(islands[name]), "dim")))
    hidden = len(islands) - _SHOWN_ISLANDS
    return lines + ([Text(f"   and {hidden} more islands", "dim")] if hidden > 0 else [])


def _spent(times: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {duration(times[key])}" for key, name in _TIMES if times.get(key) is not None
    )


def _checkpoint_line(progress: RunProgress, now: float) -> Text:
    line = Text(" checkpoint ", no_wrap=True)
    if progress.checkpoint is None:
        line.append("none yet", "dim")
    else:
        name, at = progress.checkpoint
        line.append(name, "bold").append(
            f", {duration(now - at)} ago" if at is not None else " (resumed from)", "dim"
        )
    row = progress.row or {}
    for key, label, form in (("grad_norm", "gradient norm", "#.3g"), ("lr", "lr", ".2e")):
        if row.get(key) is not None:
            line.append(f"  {label} ", "dim").append(f"{row[key]:{form}}")
    return _cut(line)


def _sides(left: Text, right: Text, width: int) -> Table:
    grid = Table.grid(padding=0, expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.width = width
    grid.add_row(left, right)
    return grid


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
