"""How much a run computes, and which part of its devices' peak rates that is."""

from __future__ import annotations

from statistics import median

from dougong.accelerators.registry import get_accelerator
from dougong.errors import DeviceError
from dougong.records.events import ModelInspected
from dougong.ui.health import percent
from dougong.ui.history import History

PER_PARAMETER = 6
"""Operations of a token with each parameter that it meets: two forward, four backward (Kaplan et
al., arXiv 2001.08361). Products of attention between tokens are not counted, so that the part of
the peak is told too low, not too high."""


def compute_words(history: History) -> str:
    """`312 GFLOP/s a device, 31.5 % of the peak`; the second part where every device's peak is
    known, nothing for a run of which the model's size is not recorded."""
    models = [event for event in history.events if isinstance(event, ModelInspected)]
    if not models or not models[-1].active_parameters or history.plan is None or not history.rows:
        return ""
    typical = median(row["tokens_per_s"] for row in history.rows)
    rate = PER_PARAMETER * models[-1].active_parameters * typical
    devices = {(worker.node, worker.device): worker.island for worker in history.plan.workers}
    words = f"{_in_words(rate / len(devices))} a device"
    peaks = [_peak(history, island, models[-1].precision) for island in devices.values()]
    known = [peak for peak in peaks if peak is not None]
    return f"{words}, {percent(rate / sum(known))} of the peak" if known == peaks else words


def _in_words(per_s: float) -> str:
    """`312 GFLOP/s`; `1.2 TFLOP/s`."""
    tera = per_s / 1e12
    return f"{tera:,.3g} TFLOP/s" if tera >= 1 else f"{1000 * tera:,.3g} GFLOP/s"


def _peak(history: History, island: str, precision: str) -> float | None:
    """FLOP/s of a device of an island at most; None where nobody has said it."""
    agents = [agent for agent in history.agents if agent.island == island]
    if not agents:
        return None
    try:
        accelerator = get_accelerator(agents[0].accelerator)
    except DeviceError:  # a package that is not installed where the report is read
        return None
    rates = [accelerator.peak_rate(agent.device, precision) for agent in agents]
    return None if None in rates else min(rate for rate in rates if rate is not None)
