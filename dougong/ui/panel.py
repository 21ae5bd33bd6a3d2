"""How a run's progress is drawn: the panel of the live view and the plain line of a step. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dougong.records.metrics import MetricsRow
from dougong.ui.formatting import count, duration, loss, plural
from dougong.ui.health import goodput_words, workers_words
from dougong.ui.run_progress import NewestCheckpoint, RunProgress

_SPARKS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {
    "running": "bold green",
    "finished": "bold green",
    "failed": "bold red",
    "stopped": "bold yellow",
}
_SHOWN_ISLANDS = 6


_MOST_SUSPECTS = 4


def plain_step(progress: RunProgress, now: float) -> str:
    """One line for the newest step, for logs and pipes: words and numbers, no colour, no column
    moves."""
    row = progress.row
    if row is None:
        return ""
    width = len(str(progress.steps))
    parts = [f"step {row['step']:>{width}}/{progress.steps}", f"loss {loss(row['loss'])}"]
    if row.get("val_loss") is not None:
        parts.append(f"val {loss(row['val_loss'])}")
    parts.append(_rate_words(progress, row))
    for key, label, form in (("grad_norm", "grad", "#.3g"), ("lr", "lr", ".2e")):
        if row.get(key) is not None:
            parts.append(f"{label} {row[key]:{form}}")
    parts += _time_words(progress, row, now)
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
    return "".join(_spark(mean, low, high) for mean in means)


def draw_panel(progress: RunProgress, now: float, width: int) -> RenderableType:
    """The panel: state, bar, loss, speed, checkpoint. Lines are cut at `width`, never wrapped."""
    lines: list[RenderableType] = [_head(progress, now, width), _bar(progress, now, width)]
    awaited = progress.awaited_words(now)
    if awaited:
        lines.append(Text(f" {awaited}", "yellow", no_wrap=True, overflow="ellipsis"))
    for culprit, why in list(progress.suspects.items())[:_MOST_SUSPECTS]:
        lines.append(_cut(Text(f" suspect: {culprit}: {why}", "bold yellow")))
    if progress.row is not None:
        lines += [_loss_line(progress, progress.row, width), *_speed_lines(progress, progress.row)]
    lines += [_checkpoint_line(progress, now), *_health_lines(progress, now)]
    lines += _remarks(progress)
    return Group(Text(""), *lines)


def _remarks(progress: RunProgress) -> list[Text]:
    """Who stands by or is missing, and what is not written."""
    lines = [Text(f" {text}", "dim") for text in progress.reserve]
    lines += [Text(f" storage: {text}", "bold yellow") for text in progress.storage.lines()]
    if progress.unsaved:
        lines.append(Text(f" not saved: {progress.unsaved}", "bold red"))
    return [_cut(line) for line in lines]


def _rate_words(progress: RunProgress, row: MetricsRow) -> str:
    """Tokens/s in all and, where there are several islands, of each."""
    words = f"{count(row['tokens_per_s'])} tokens/s"
    rates = progress.island_rates()
    if len(rates) < 2:
        return words
    islands = [f"{island} {count(rate)}" for island, rate in rates.items()]
    return f"{words} ({', '.join(islands)})"


def _time_words(progress: RunProgress, row: MetricsRow, now: float) -> list[str]:
    """How long the step took, and how long the rest will take."""
    words = []
    if row.get("step_s") is not None:
        words.append(duration(row["step_s"]))
    eta = progress.eta_s(now)
    if eta is not None and row["step"] < progress.steps:
        words.append(f"eta {duration(eta)}")
    return words


def _bucket_mean(values: Sequence[float], index: int, buckets: int) -> float:
    bucket = values[index * len(values) // buckets : (index + 1) * len(values) // buckets]
    return sum(bucket) / len(bucket)


def _spark(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    height = (value - low) / (high - low) if high > low else 0.0
    return _SPARKS[round(height * (len(_SPARKS) - 1))]


def _head(progress: RunProgress, now: float, width: int) -> Table:
    style = _STATE_STYLES.get(progress.state, "bold cyan")
    left = Text.assemble((f" {progress.job_name}", "bold"), "  ", ("● " + progress.state, style))
    phase = progress.phase_words(now)
    left.append(f"  {phase}" if phase else "", "dim")
    grid = Table.grid(padding=0, expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.width = width
    grid.add_row(left, Text(f"{_head_facts(progress, now)} ", "dim"))
    return grid


def _head_facts(progress: RunProgress, now: float) -> str:
    facts = [f"generation {progress.generation}"]
    if progress.failures:
        facts.append(plural(progress.failures, "failure"))
    facts.append(duration(now - progress.started_at))
    return " · ".join(facts)


def _bar(progress: RunProgress, now: float, width: int) -> Table:
    """How far the run is, how many per cent that is, and how long the rest will take."""
    step = progress.row["step"] if progress.row else 0
    left = f" step {step:>{len(str(progress.steps))}}/{progress.steps} "
    right = f" {100 * step / progress.steps:3.0f} % "
    eta = progress.eta_s(now)
    if eta is not None:
        right += f" {duration(eta)} left "
    bar_width = max(width - len(left) - len(right), 4)
    grid = Table.grid(padding=0)
    for _ in range(3):
        grid.add_column(no_wrap=True)
    bar = ProgressBar(
        progress.steps, step, bar_width, complete_style="cyan", finished_style="green"
    )
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
    islands = row.get("islands", {})
    if len(islands) == 1:
        (name,) = islands
        return [_cut(total.append(f"  {name}  {_times(islands[name])}", "dim"))]
    shown = list(islands)[:_SHOWN_ISLANDS]
    lines = [_cut(total)]
    lines += [_island_line(name, progress, row) for name in shown]
    if len(shown) < len(islands):
        lines.append(Text(f"   and {len(islands) - len(shown)} more islands", "dim"))
    return lines


def _island_line(name: str, progress: RunProgress, row: MetricsRow) -> Text:
    """One that runs no lanes has no tokens/s of its own."""
    widest = max(map(len, row["islands"]))
    rates = progress.island_rates()
    rate = count(rates[name]) if name in rates else ""
    line = Text(f"   {name:<{widest}} {rate:>9}  ")
    return _cut(line.append(_times(row["islands"][name]), "dim"))


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


def _health_lines(progress: RunProgress, now: float) -> list[Text]:
    """How the workers are, what goodput there is, and the last fault."""
    lines = []
    if any(worker.alive for worker in progress.workers):
        lines.append(Text(f" workers {workers_words(progress.workers)}"))
    if progress.goodput is not None and progress.goodput.share is not None:
        share, _, more = goodput_words(progress.goodput).partition(" of ")
        lines.append(Text.assemble(" goodput ", (share, "bold"), (f" of {more}", "dim")))
    if progress.fault is not None:
        fault = progress.fault
        after = fault.outcome or "not over yet"
        ago = duration(now - fault.at)
        lines.append(Text.assemble(f" last fault {ago} ago, {after}: ", (fault.text, "dim")))
    return [_cut(line) for line in lines]


def _age(checkpoint: NewestCheckpoint, now: float) -> str:
    if checkpoint.committed_at is None:
        return " (resumed from)"
    return f", {duration(now - checkpoint.committed_at)} ago"


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
