"""How values are put in words, the same on the screen, in the report and in events. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from datetime import timezone

from dougong.records.event.base import read_wall

_MOST_STRETCHES = 3
"""So many are named one by one."""


def duration(seconds: float) -> str:
    """`4 ms`, `0.12 s`, `4.2 s`, `1:05`, `2:03:09`, `3 d 04:05`: as short as it stays readable."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0.1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    for bound, digits in ((1, 2), (10, 1), (60, 0)):
        if seconds < bound:
            return f"{seconds:.{digits}f} s"
    return _long_duration(round(seconds))


def count(number: float) -> str:
    """Whole numbers with thin thousands: `8,012`; from a million on `1.23 M`, `4.50 B`."""
    for bound, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= bound:
            return f"{number / bound:.2f} {suffix}"
    return f"{number:,.0f}" if math.isfinite(number) else str(number)


def size(num_bytes: float) -> str:
    """Bytes in binary units: `812 B`, `3.4 MiB`, `1.2 TiB`."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def loss(value: float) -> str:
    """A loss as the field reads it, with four decimals; a broken one as `nan` or `inf`."""
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def local_clock(wall: str) -> str:
    """The watch's time, `13:04:05`, of an event's wall time (ISO 8601); empty when there is
    none."""
    return read_wall(wall).astimezone().strftime("%H:%M:%S") if wall else ""


def moment(wall: str) -> str:
    """An event's wall time (ISO 8601) as `2025-11-22 13:04:05`, in UTC."""
    return read_wall(wall).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def _long_duration(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d}"
    if hours:
        return f"{hours}:{minute:02d}:{second:02d}"
    return f"{minutes}:{second:02d}"


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def step_range(first: int, last: int) -> str:
    """`step 21`, `steps 21-29`."""
    return f"step {first}" if first == last else f"steps {first}-{last}"


def stretches_words(stretches: Iterable[tuple[int, int]]) -> str:
    """First and last steps, joined where they overlap or meet: `steps 2-4, step 9`; of more than
    three only how many: `40 steps in 5 ranges`."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    if len(joined) <= _MOST_STRETCHES:
        return ", ".join(step_range(first, last) for first, last in joined)
    steps = sum(last - first + 1 for first, last in joined)
    return f"{plural(steps, 'step')} in {plural(len(joined), 'range')}"


def spans(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Integers as (first, last) of unbroken stretches, ascending."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def ranges(numbers: Iterable[int]) -> str:
    """Integers as ascending ranges: `0-3, 5, 8-9`; empty for none."""
    return ", ".join(_span_words(numbers))


def site_experts(experts: Sequence[Sequence[int]]) -> str:
    """A worker's experts at every site: `0-3` where they are the same everywhere, else site by
    site, `0-3 x2 | none | 4`, if that is short; empty for none."""
    if not experts:
        return ""
    if all(list(numbers) == list(experts[0]) for numbers in experts):
        return ranges(experts[0])
    text = _by_site(experts)
    if len(text) <= 40:
        return text
    counts = [len(numbers) for numbers in experts]
    return f"{min(counts)} to {max(counts)} a layer"


def worker_list(workers: Iterable[str]) -> str:
    """Workers in compact form: `east/0-3, west/1`. Names that are not `island/index` stand as they
    are."""
    islands: dict[str, list[int]] = {}
    others = []
    for name in sorted(set(workers)):
        island, slash, index = name.partition("/")
        if slash and index.isdecimal():
            islands.setdefault(island, []).append(int(index))
        else:
            others.append(name)
    words = []
    for island, indices in islands.items():
        words += [f"{island}/{span}" for span in _span_words(indices)]
    return ", ".join(words + others)


def _span_words(numbers: Iterable[int]) -> list[str]:
    return [str(a) if a == b else f"{a}-{b}" for a, b in spans(numbers)]


def _by_site(experts: Sequence[Sequence[int]]) -> str:
    """`x2`: the same at two sites after each other."""
    words = []
    for text, group in itertools.groupby(ranges(numbers) or "none" for numbers in experts):
        times = len(list(group))
        words.append(text if times == 1 else f"{text} x{times}")
    return " | ".join(words)
