"""How values and events are put in words, the same on the screen and in the report. Pure; imports
nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from dougong.parallel.plan import experts_text

Level = Literal["quiet", "info", "good", "warning", "error"]
_END_LEVELS: dict[str, Level] = {"finished": "good", "stopped": "warning", "failed": "error"}
FINAL_KINDS = tuple(_END_LEVELS)


@dataclass(frozen=True)
class Sentence:
    """One event in words. `quiet` ones are for the report's table, not for the screen."""

    level: Level
    text: str


def duration(seconds: float) -> str:
    """`4 ms`, `0.12 s`, `4.2 s`, `1:05`, `2:03:09`, `3 d 04:05`: as short as it stays readable."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 0.1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


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


def local_clock(wall: str) -> str:
    """The watch's time, `13:04:05`, of an event's wall time (ISO 8601); empty when there is
    none."""
    return (
        datetime.fromisoformat(wall.replace("Z", "+00:00")).astimezone().strftime("%H:%M:%S")
        if wall
        else ""
    )


def plural(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Integers as ascending ranges: `0-3, 5, 8-9`; empty for none."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and spans[-1][1] + 1 == number:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def site_experts(experts: Sequence[Sequence[int]]) -> str:
    """A worker's experts at every site: `0-3` where they are the same everywhere, else site by site
    if that is short; empty for none."""
    if len({tuple(own) for own in experts}) <= 1:
        return ranges(experts[0]) if experts else ""
    least, most = min(map(len, experts)), max(map(len, experts))
    text = experts_text(experts)
    return text if len(text) <= 40 else f"{least} to {most} a layer"


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
    spans = [
        f"{island}/{span}"
        for island, indices in islands.items()
        for span in ranges(indices).split(", ")
    ]
    return ", ".join(spans + others)


def cause_of(event: dict[str, Any]) -> str:
    """Why, in the event's own words: its class and its cause as far as it has them."""
    cause = next(
        (str(event[key]) for key in ("cause", "reason", "message", "text") if event.get(key)), ""
    )
    kind = str(event.get("class") or "").replace("_", " ")
    if kind and kind.lower() not in cause.lower().replace("_", " "):
        return f"{kind}: {cause}" if cause else kind
    return cause


def describe(event: dict[str, Any]) -> Sentence:
    """One event in words; a kind without a sentence of its own is told by its fields."""
    sentence = _SENTENCES.get(event["kind"])
    return sentence(event) if sentence else Sentence("info", _generic(event))


def _generic(event: dict[str, Any]) -> str:
    skipped = ("kind", "generation", "monotonic_s", "wall")
    fields = [
        f"{key} {_short(value)}"
        for key, value in event.items()
        if key not in skipped and value is not None
    ]
    return " · ".join([str(event["kind"]).replace("_", " "), *fields])


def _short(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return worker_list(value)
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _created(event: dict[str, Any]) -> Sentence:
    again = "resumed: " if event["generation"] > 1 else ""
    return Sentence("info", again + (f"job {event['job']}" if event.get("job") else "run created"))


def _agents_started(event: dict[str, Any]) -> Sentence:
    agents = event.get("agents")
    if not isinstance(agents, list):
        return Sentence("info", _generic(event))
    hosts = sorted({str(a.get("node")) for a in agents if isinstance(a, dict)})
    return Sentence("info", f"{plural(len(agents), 'agent')} on {', '.join(hosts)}")


def _inspected(event: dict[str, Any]) -> Sentence:
    if "parameters" not in event:
        return Sentence("quiet", _generic(event))
    experts = f", {event['experts']} experts" if isinstance(event.get("experts"), int) else ""
    return Sentence(
        "info", f"model {event.get('family', '')}: {count(event['parameters'])} parameters{experts}"
    )


def _fingerprints(event: dict[str, Any]) -> Sentence:
    classes = event.get("classes")
    if not isinstance(classes, dict):
        return Sentence("quiet", _generic(event))
    groups = [
        f"{name} on {worker_list(w for w in classes if classes[w] == name)}"
        for name in dict.fromkeys(classes.values())
    ]
    return Sentence(
        "info",
        f"arithmetic: class {', class '.join(groups)}" if groups else "arithmetic: nobody asked",
    )


def _planned(event: dict[str, Any]) -> Sentence:
    parts = [
        plural(event[key], key[:-1])
        for key in ("workers", "lanes", "experts")
        if isinstance(event.get(key), int)
    ]
    return Sentence("info", f"plan: {', '.join(parts)}" if parts else _generic(event))


def _generation_started(event: dict[str, Any]) -> Sentence:
    workers, resume = event.get("workers"), event.get("resume")
    who = (
        f" with {plural(len(workers), 'worker')} [{worker_list(workers)}]"
        if isinstance(workers, list)
        else ""
    )
    start = (
        f" from {str(resume).rstrip('/').rpartition('/')[2]}" if resume else " from the beginning"
    )
    return Sentence("info", f"generation {event['generation']} starts{start}{who}")


def _first_step(event: dict[str, Any]) -> Sentence:
    step = event.get("step", "?")
    if event["generation"] > 1:
        return Sentence("good", f"training again at step {step}")
    return Sentence("quiet", f"first step: {step}")


def _drill(event: dict[str, Any]) -> Sentence:
    action, worker, step = (
        event.get("action", "fault"),
        event.get("worker", "?"),
        event.get("step", "?"),
    )
    return Sentence("warning", f"drill: {action} {worker} as step {step} begins")


def _worker_died(event: dict[str, Any]) -> Sentence:
    return Sentence(
        "error", f"worker {event.get('worker', '?')} died: {cause_of(event) or 'cause unknown'}"
    )


def _diagnosis(event: dict[str, Any]) -> Sentence:
    return Sentence(
        "error", f"diagnosis: {event.get('worker', '?')}: {cause_of(event) or 'cause unknown'}"
    )


def _decision(event: dict[str, Any]) -> Sentence:
    reason = cause_of(event)
    action = str(event.get("action", event.get("decision", "?"))).replace("_", " ")
    return Sentence("warning", f"decision: {action}" + (f" ({reason})" if reason else ""))


def _checkpoint_started(event: dict[str, Any]) -> Sentence:
    return Sentence("quiet", f"checkpoint of step {event.get('step', '?')} begins")


def _checkpoint_committed(event: dict[str, Any]) -> Sentence:
    facts = [size(event["bytes"])] if isinstance(event.get("bytes"), (int, float)) else []
    facts += [duration(event["seconds"])] if isinstance(event.get("seconds"), (int, float)) else []
    told = f" ({', '.join(facts)})" if facts else ""
    return Sentence("good", f"checkpoint of step {event.get('step', '?')} committed{told}")


def _checkpoint_rejected(event: dict[str, Any]) -> Sentence:
    name = str(event.get("directory", event.get("step", "?"))).rstrip("/").rpartition("/")[2]
    return Sentence("error", f"checkpoint {name} rejected: {cause_of(event) or 'no reason given'}")


def _warning(event: dict[str, Any]) -> Sentence:
    workers = event.get("workers") or ([event["worker"]] if event.get("worker") else [])
    return Sentence(
        "warning",
        (f"[{worker_list(workers)}] " if workers else "") + (cause_of(event) or "warning"),
    )


def _state(event: dict[str, Any]) -> Sentence:
    return Sentence("quiet", f"state: {str(event.get('state', '?')).lower()}")


def _stop_requested(event: dict[str, Any]) -> Sentence:
    by = f" by {event['by']}" if event.get("by") else ""
    return Sentence(
        "warning", f"stop requested{by}: the step in progress ends, then a checkpoint is written"
    )


def _end(event: dict[str, Any]) -> Sentence:
    level = _END_LEVELS[event["kind"]]
    step = f" at step {event['step']}" if event.get("step") is not None else ""
    worker = f"{event['worker']}: " if event.get("worker") else ""
    cause = cause_of(event)
    return Sentence(level, f"{event['kind']}{step}" + (f": {worker}{cause}" if cause else ""))


_SENTENCES: dict[str, Callable[[dict[str, Any]], Sentence]] = {
    "created": _created,
    "agents_started": _agents_started,
    "inspected": _inspected,
    "fingerprints": _fingerprints,
    "planned": _planned,
    "generation_started": _generation_started,
    "first_step": _first_step,
    "drill": _drill,
    "worker_died": _worker_died,
    "diagnosis": _diagnosis,
    "decision": _decision,
    "checkpoint_started": _checkpoint_started,
    "checkpoint_committed": _checkpoint_committed,
    "checkpoint_rejected": _checkpoint_rejected,
    "warning": _warning,
    "state": _state,
    "stop_requested": _stop_requested,
    **dict.fromkeys(FINAL_KINDS, _end),
}
