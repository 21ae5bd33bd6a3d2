"""What stands at the head of the page: six numbers, and the last lines of the log that explains a
failure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dougong.records.directory import RunDir
from dougong.ui.formatting import count, duration, loss, plural
from dougong.ui.health import lost_words, percent
from dougong.ui.history import History, recomputed_words
from dougong.ui.recoveries import num_failures
from dougong.ui.report.compute import compute_words
from dougong.ui.save_words import save_words

_TAIL_LINES = 20
_TAIL_BYTES = 16384


@dataclass(frozen=True)
class SummaryCard:
    """One number of the run; `more` says a little more about it. `is_broken`: it is not finite."""

    label: str
    value: str
    more: str
    is_broken: bool = False


@dataclass(frozen=True)
class LogTail:
    """The end of a worker's log, empty where it printed nothing. `path`: from the run's
    directory."""

    path: Path
    text: str


def summary_cards(history: History) -> list[SummaryCard]:
    """Steps, loss, speed, time, goodput, failures; without a step, what there is of them."""
    time = SummaryCard("Time", duration(history.goodput.wall_s), _start_words(history))
    failures = SummaryCard("Failures", str(_num_failures(history)), _recovery_words(history))
    if not history.rows:
        return [_steps_card(history), time, failures]
    return [
        _steps_card(history),
        _loss_card(history),
        _speed_card(history),
        time,
        _goodput_card(history),
        failures,
    ]


def read_log_tail(history: History, run_dir: RunDir) -> LogTail | None:
    """The last lines of the worker that ended a failed run; None when there is no such log."""
    failure = history.failure
    if failure is None:
        return None
    path = run_dir.log_files().get((failure.generation, failure.worker))
    if path is None:
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return LogTail(path.relative_to(run_dir.path), "\n".join(lines[-_TAIL_LINES:]))


def _steps_card(history: History) -> SummaryCard:
    done = 100 * history.last_step / max(history.steps, 1)
    return SummaryCard("Steps", f"{history.last_step:,}", f"of {history.steps:,}, {done:.0f} %")


def _loss_card(history: History) -> SummaryCard:
    label = "Final loss" if history.state == "finished" else "Last loss"
    value = history.rows[-1]["loss"]
    more = "no validation"
    if history.validation is not None:
        step, validated = history.validation
        more = f"validation {loss(validated)} at step {step:,}"
        if history.validation_by_source:
            each = [f"{key} {loss(one)}" for key, one in history.validation_by_source.items()]
            more += f" ({', '.join(each)})"
    return SummaryCard(label, loss(value), more, is_broken=not math.isfinite(value))


def _start_words(history: History) -> str:
    start_s = history.goodput.parts.get("start", 0.0)
    words = f"start-up {duration(start_s)}" if start_s else ""
    if not history.rows:
        return words
    step = f"median step {duration(median(row['step_s'] for row in history.rows))}"
    begun = f"{step}, {words}" if words else step
    saved = history.checkpoints[-1].step if history.checkpoints else None
    saves = save_words(history.rows, saved)
    return f"{begun}; {saves}" if saves else begun


def _speed_card(history: History) -> SummaryCard:
    typical = median(row["tokens_per_s"] for row in history.rows)
    a_step = count(history.rows[-1]["tokens"])
    words = [f"{count(history.tokens)} tokens, {a_step} a step", compute_words(history)]
    return SummaryCard("Tokens/s", count(typical), "; ".join(filter(None, words)))


def _goodput_card(history: History) -> SummaryCard:
    share = history.goodput.share
    value = "–" if share is None else percent(share)
    return SummaryCard("Goodput", value, lost_words(history.goodput))


def _num_failures(history: History) -> int:
    """As everywhere; of a run that failed without one of them, its own."""
    return num_failures(history.recoveries) or int(history.failure is not None)


def _recovery_words(history: History) -> str:
    if not history.recoveries:
        return "none" if history.failure is None else "the run's own"
    if all(recovery.total_s is None for recovery in history.recoveries):
        return "no step came after"
    lost = plural(history.goodput.steps_lost, "step")
    seconds = sum(recovery.total_s or 0.0 for recovery in history.recoveries)
    words = f"{lost} lost, {duration(seconds)} to recover"
    if history.recomputed:
        words += f"; {recomputed_words(history.recomputed)}"
    return words
