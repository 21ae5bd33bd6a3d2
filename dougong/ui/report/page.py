"""`report.html`: one page that holds all of a run and needs nothing beside itself: no script, no
font, no address.

`write_report` works on any run: finished, failed, stopped, still going, or without a single step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from dougong import __version__
from dougong.parallel.plan import Plan, Worker
from dougong.records.directory import MetricsRow, RunDir
from dougong.ui.formatting import count, describe, duration, plural, ranges, site_experts, size
from dougong.ui.history import CheckpointRecord, Event, History, Recovery, next_command, read_history
from dougong.ui.report.line_chart import Chart, Mark, Point, Series, card
from dougong.ui.report.load_map import load_section
from dougong.ui.report.markup import Markup, join, tag

_ISLAND_LOOKS = ("train", "validation", "second", "third")
_MOST_EVENTS = 200
_MOST_WORKERS = 64
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16384
_LOGO = (
    "M3 8h42v6H3zM9 17h30v6H9zM15 26h18v6H15zM21 35h6v10h-6z"  # the arms and the post
    "M6 14h5v3H6zM37 14h5v3h-5zM12 23h5v3h-5zM31 23h5v3h-5zM18 32h12v3H18z"  # the blocks between them
)


def write_report(run_dir: RunDir) -> Path:
    """Write RUN/report.html in one rename and hand back its path. LaunchError when a file of the
    run is broken."""
    run_dir.write_report(render(read_history(run_dir), run_dir))
    return run_dir.report_file


def render(told: History, run_dir: RunDir) -> str:
    """The whole page as text."""
    style = resources.files("dougong.ui.report").joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{told.job_name}: {told.state}"),
        tag("style", Markup(style)),
    )
    main = tag(
        "main", _header(told), _banner(told, run_dir), _cards(told), _charts(told), _recoveries(told.recoveries),
        _layout(told), _checkpoints(told.checkpoints), _events(told.events), _environment(told), _footer(told),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', main), lang='en')}\n"


def _header(told: History) -> Markup:
    logo = tag("svg", tag("path", d=_LOGO, class_="brand"), viewBox="0 0 48 48", aria_hidden="true")
    title = tag("h1", told.job_name, " ", tag("span", told.state, class_=f"pill {told.state}"))
    start = _moment(told.events[0]["wall"]) if told.events else ""
    facts = " · ".join(
        filter(None, [start, told.machine.get("host", ""), str(told.path.absolute())])
    )
    return tag("header", logo, tag("div", title, tag("p", facts)))


def _banner(told: History, run_dir: RunDir) -> Markup | None:
    """Why it did not finish, and what to type."""
    if told.state == "finished":
        return None
    last = _moment(told.events[-1]["wall"]) if told.events else "never"
    words = {
        "failed": (
            tag("strong", f"Failed: {told.failed_worker}".rstrip(": ")),
            tag("p", told.cause, class_="cause"),
        ),
        "lost": (
            tag("strong", "Lost"),
            tag("p", f"The controller's process ended without a word; last event {last}."),
        ),
        "stopped": (tag("h3", "Stopped on request"), None),
    }
    title, text = words.get(told.state, (tag("h3", f"Not over yet: last event {last}"), None))
    log = _log_tail(told, run_dir) if told.state == "failed" else None
    return tag(
        "div",
        title,
        text,
        tag("p", "Next: ", tag("code", next_command(told))),
        log,
        class_=f"banner {told.state}",
    )


def _log_tail(told: History, run_dir: RunDir) -> Markup | None:
    """The last lines of the log of the worker that failed."""
    path = run_dir.log_files().get((told.failed_generation, told.failed_worker))
    if path is None:
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _LOG_TAIL_BYTES, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:]
    summary = tag("summary", f"The last lines of {path.relative_to(run_dir.path)}")
    return tag("details", summary, tag("pre", "\n".join(lines)), open=True)


def _cards(told: History) -> Markup:
    rows, validation = told.rows, told.validation
    pace = median(row["step_s"] for row in rows) if rows else math.nan
    rate = median(row["tokens_per_s"] for row in rows) if rows else math.nan
    overall = told.tokens / told.duration_s if told.duration_s > 0 else math.nan
    cards = [
        ("Steps", f"{told.last_step:,} / {told.steps:,}", f"{100 * told.last_step / max(told.steps, 1):.0f} %"),
        ("Final loss" if told.state == "finished" else "Last loss", _loss(rows[-1]["loss"]) if rows else "–",
         f"validation {_loss(validation[1])} at step {validation[0]:,}" if validation else "no validation"),
        ("Tokens", count(told.tokens), f"{count(rows[-1]['tokens'])} a step" if rows else ""),
        ("Time", duration(told.duration_s), f"median step {duration(pace)}" if rows else ""),
        ("Tokens/s", count(rate) if rows else "–", f"{count(overall)} over the whole run" if rows else ""),
        ("Failures", str(len(told.recoveries)), _repeated(told) if told.recoveries else "none"),
    ]  # fmt: skip
    return tag("div", *(_card(*card) for card in cards), class_="cards")


def _repeated(told: History) -> str:
    lost = sum(len(stretch) for stretch in told.rewound)
    over = sum(r.total_s for r in told.recoveries if r.total_s is not None)
    return f"{plural(lost, 'step')} rewound, {duration(over)} to recover"


def _card(label: str, value: str, more: str) -> Markup:
    parts = [
        tag("div", label, class_="label"),
        tag("div", value, class_="value"),
        tag("div", more, class_="more"),
    ]
    return tag("div", *parts, class_="card")


def _charts(told: History) -> Markup:
    marks = [
        Mark(r.step + 0.5, r.worker, f"{r.worker}: {r.cause or r.fault}, after step {r.step}")
        for r in told.recoveries
    ]
    plain = [Mark(m.x, "", m.text) for m in marks]
    islands = sorted({name for row in told.rows for name in row.get("islands", {})})
    speed = [Series("all", _points(told.rows, "tokens_per_s"), "train")]
    compute = [
        Series(
            part if len(islands) == 1 else f"{name} {part}",
            _island_points(told.rows, name, f"{part}_s"),
            _ISLAND_LOOKS[i % len(_ISLAND_LOOKS)],
        )
        for i, (name, part) in enumerate(
            (n, p) for n in islands[:2] for p in ("compute", "exchange")
        )
    ]
    loss = Chart("Loss", _loss_series(told), _tick(2), marks, 1080, 300)
    small = [
        (Chart("Throughput", speed, count, plain, floor=0.0), "tokens/s"),
        (Chart("Time in a step", [Series("whole", _points(told.rows, "step_s"), "whole"), *compute], _tick(2),
               plain, floor=0.0), "seconds"),
        (Chart("Gradient norm", [Series("norm", _points(told.rows, "grad_norm"), "second")], _tick(2), plain,
               floor=0.0), "before clipping"),
        (Chart("Learning rate", [Series("lr", _points(told.rows, "lr"), "third")], _small, plain, floor=0.0), ""),
    ]  # fmt: skip
    grid = tag("div", *(card(chart, unit) for chart, unit in small), class_="charts")
    load = load_section(told.rows, plain)
    return join(tag("h2", "Training"), card(loss, "cross-entropy per token, by step"), grid, load)


def _loss_series(told: History) -> list[Series]:
    """Rewound stretches below, then training, then validation on top."""
    grey = [
        point
        for stretch in told.rewound
        for point in [*_points(stretch, "loss"), (stretch[-1]["step"], math.nan)]
    ]
    series = [Series("rewound", grey, "rewound")] if grey else []
    series.append(Series("training", _points(told.rows, "loss"), "train"))
    validation = _points([row for row in told.rows if row.get("val_loss") is not None], "val_loss")
    return (
        [*series, Series("validation", validation, "validation", dots=len(validation) <= 60)]
        if validation
        else series
    )


def _points(rows: Sequence[MetricsRow], key: str) -> list[Point]:
    return [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]


def _island_points(rows: Sequence[MetricsRow], island: str, key: str) -> list[Point]:
    times = [(row["step"], row.get("islands", {}).get(island, {}).get(key)) for row in rows]
    return [(float(step), float(value)) for step, value in times if value is not None]


def _tick(digits: int) -> Callable[[float], str]:
    def say(value: float) -> str:
        return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.2g}"

    return say


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def _recoveries(recoveries: Sequence[Recovery]) -> Markup | None:
    if not recoveries:
        return None
    longest = max((r.total_s or 0.0 for r in recoveries), default=0.0)
    return join(tag("h2", "Failures and recoveries"), *(_recovery(r, longest) for r in recoveries))


def _recovery(recovery: Recovery, longest: float) -> Markup:
    fault = f" · {recovery.fault.replace('_', ' ')}" if recovery.fault else ""
    title = tag("h3", tag("span", recovery.worker, class_="bad"), f"{fault} · generation {recovery.generation},"
                f" after step {recovery.step:,} · {_moment(recovery.wall)}")  # fmt: skip
    parts = [("noticed", recovery.noticed_s, "k1"), ("new generation", recovery.restart_s, "k2"),
             ("first step", recovery.reload_s, "k3")]  # fmt: skip
    known = [(name, seconds, look) for name, seconds, look in parts if seconds is not None]
    cause = tag("p", recovery.cause)
    if recovery.detail:
        cause = join(
            cause, tag("details", tag("summary", "What it said"), tag("pre", recovery.detail))
        )
    if recovery.total_s is None:
        after = tag("p", "Not followed by another step.", class_="soft")
        return tag("div", title, cause, after, class_="card recovery")
    width = 100 * recovery.total_s / longest if longest else 100.0
    bar = [tag("i", class_=look, style=f"width:{100 * s / max(recovery.total_s, 1e-9) * width / 100:.2f}%")
           for _, s, look in known]  # fmt: skip
    keys = [
        tag("span", tag("i", class_=look), f"{name} {duration(seconds)}")
        for name, seconds, look in known
    ]
    start = (
        f"resumed from {recovery.resumed_from}"
        if recovery.resumed_from
        else "started again from the beginning"
    )
    lost = f"{start}, {plural(recovery.lost_steps or 0, 'step')} rewound"
    keys.append(tag("span", tag("strong", f"{duration(recovery.total_s)} in all"), f", {lost}"))
    strip = tag("div", *bar, class_="bar")
    return tag("div", title, cause, strip, tag("div", *keys, class_="keys"), class_="card recovery")


def _layout(told: History) -> Markup | None:
    plan = told.plan
    if plan is None:
        return None
    pids = {str(w.get("name")): w for w in told.workers}
    rows = [_worker_row(worker, plan, pids.get(worker.name, {})) for worker in plan.workers]
    heads = [(name, "tight") for name in ("Worker", "Role", "Host", "Device")]
    heads += [
        ("Process", "num tight"),
        (f"Lanes of {plan.num_lanes}", ""),
        (f"Experts of {plan.num_experts}", ""),
    ]
    heads.append(("Tensors", "num tight"))
    table = _table(heads, rows)
    if len(rows) > _MOST_WORKERS:
        table = tag("details", tag("summary", plural(len(rows), "worker")), table)
    classes = tag("p", _classes(told.classes), class_="soft") if told.classes else None
    return join(tag("h2", "Layout"), tag("div", table, classes, class_="card scroll"))


def _classes(classes: dict[str, str]) -> str:
    """`Arithmetic, by fingerprint: east 3f2a..., west 91cc...`: one entry for each island and
    class."""
    pairs = dict.fromkeys((worker.rpartition("/")[0], name) for worker, name in classes.items())
    return f"Arithmetic, by fingerprint: {', '.join(f'{island} {name}' for island, name in pairs)}"


def _worker_row(worker: Worker, plan: Plan, status: dict[str, Any]) -> Markup:
    owned = sum(1 for rank in plan.owners.values() if rank == worker.rank)
    experts = sorted({e for own in worker.experts for e in own})
    cells = [
        tag("td", tag("strong", worker.name), class_="tight"),
        tag("td", worker.role, class_="tight"),
        tag("td", str(status.get("host") or worker.node), class_="tight"),
        tag("td", worker.device, class_="tight"),
        tag("td", str(status.get("pid") or "–"), class_="num tight soft"),
        tag("td", _owned(worker.lanes, plan.num_lanes, "lanes", ranges(worker.lanes))),
        tag("td", _owned(experts, plan.num_experts, "experts", site_experts(worker.experts))),
        tag("td", f"{owned:,}", class_="num tight"),
    ]
    return tag("tr", *cells)


def _owned(numbers: Sequence[int], total: int, kind: str, text: str) -> Markup:
    """Which of `total` things are this worker's: in words (`text`), and as a strip with its part
    filled."""
    strips, at = [], 0
    for first, last in _spans(numbers):
        strips += [tag("i", style=f"width:{100 * (first - at) / total:.3f}%")] if first > at else []
        strips.append(
            tag("i", class_="own", style=f"width:{100 * (last + 1 - first) / total:.3f}%")
        )
        at = last + 1
    words = tag("span", text.replace("-", "–") or "none")
    return tag("div", words, tag("div", *strips, class_=f"cells {kind}"), class_="owned")


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    text = ranges(numbers)
    pairs = [span.partition("-") for span in text.split(", ")] if text else []
    return [(int(first), int(last or first)) for first, _, last in pairs]


def _checkpoints(checkpoints: Sequence[CheckpointRecord]) -> Markup | None:
    if not checkpoints:
        return None
    rows = []
    for c in checkpoints:
        if c.rejected:
            verdict = tag("span", f"rejected: {c.rejected}", class_="bad")
        elif c.present:
            verdict = tag("span", "committed, read back and compared", class_="good")
        else:
            verdict = tag("span", "committed, later removed", class_="soft")
        rows.append(tag(
            "tr", tag("td", f"{c.step:,}", class_="num tight"), tag("td", tag("code", c.name), class_="tight"),
            tag("td", "–" if c.num_bytes is None else size(c.num_bytes), class_="num tight"),
            tag("td", "–" if c.seconds is None else duration(c.seconds), class_="num tight"),
            tag("td", _moment(c.wall), class_="tight soft"), tag("td", verdict),
        ))  # fmt: skip
    heads = [("Step", "num tight"), ("Directory", "tight"), ("Size", "num tight"), ("Written in", "num tight"),
             ("At", "tight"), ("State", "")]  # fmt: skip
    return join(tag("h2", "Checkpoints"), tag("div", _table(heads, rows), class_="card scroll"))


def _events(events: Sequence[Event]) -> Markup | None:
    if not events:
        return None
    rows = [_event_row(event, events[i - 1] if i else event) for i, event in enumerate(events)]
    heads = [
        ("At", "tight"),
        ("After", "num tight"),
        ("Generation", "num tight"),
        ("Event", "tight"),
        ("What happened", ""),
    ]
    table = tag("div", _table(heads, rows[-_MOST_EVENTS:]), class_="events")
    if len(rows) > _MOST_EVENTS:
        older = tag("div", _table(heads, rows[:-_MOST_EVENTS]), class_="events")
        table = join(
            tag("details", tag("summary", f"{len(rows) - _MOST_EVENTS:,} older events"), older),
            table,
        )
    return join(tag("h2", "Events"), tag("div", table, class_="card scroll"))


def _event_row(event: Event, before: Event) -> Markup:
    sentence = describe(event)
    passed = event["monotonic_s"] - before["monotonic_s"]
    after = f"+{passed:.3f} s" if 0 <= passed < 60 else f"+{duration(passed)}" if passed > 0 else ""
    look = {"error": "bad", "warning": "warn", "good": "good"}.get(sentence.level)
    cells = [
        tag("td", _moment(event["wall"], with_date=False), class_="tight soft"),
        tag("td", after, class_="num tight soft"),
        tag("td", event["generation"] or "–", class_="num tight"),
        tag("td", event["kind"].replace("_", " "), class_="tight"),
        tag("td", sentence.text, class_=look),
    ]
    return tag("tr", *cells, class_="quiet" if sentence.level == "quiet" else None)


def _environment(told: History) -> Markup:
    machine = told.machine
    facts = [(label, machine.get(key)) for label, key in _MACHINE]
    if machine.get("memory_bytes"):
        facts.append(("Memory", size(machine["memory_bytes"])))
    facts += sorted((machine.get("versions") or {}).items())
    rows = [
        tag("tr", tag("td", name, class_="tight soft"), tag("td", str(value)))
        for name, value in facts
        if value
    ]
    left = [tag("div", tag("table", *rows), class_="card")] if rows else []
    left += (
        [tag("div", _agents(told.agents), class_="card scroll", style="margin-top:12px")]
        if len(told.agents) > 1
        else []
    )
    command = (
        [tag("h3", "Command"), tag("pre", told.command, style="margin:6px 0 14px")]
        if told.command
        else []
    )
    job = [tag("h3", "Job file, resolved"), tag("pre", told.job_text, style="margin-top:6px")]
    return join(
        tag("h2", "Environment"),
        tag("div", tag("div", *left), tag("div", *command, *job, class_="card"), class_="two"),
    )


_MACHINE = (
    ("Host", "host"),
    ("Platform", "platform"),
    ("CPU", "cpu"),
    ("Cores", "cores"),
    ("Python", "python"),
)


def _agents(agents: Sequence[dict[str, Any]]) -> Markup:
    heads = [
        ("Island", "tight"),
        ("Node", ""),
        ("Accelerator", "tight"),
        ("Devices", "num tight"),
        ("torch", "tight"),
    ]
    rows = []
    for agent in agents:
        devices = agent.get("devices")
        cells = [tag("td", str(agent.get("island", ""))), tag("td", str(agent.get("node", "")))]
        cells.append(tag("td", str(agent.get("accelerator", ""))))
        cells.append(
            tag(
                "td",
                str(len(devices) if isinstance(devices, list) else devices or "–"),
                class_="num",
            )
        )
        cells.append(tag("td", str((agent.get("versions") or {}).get("torch", "–"))))
        rows.append(tag("tr", *cells))
    return _table(heads, rows)


def _footer(told: History) -> Markup:
    last = _moment(told.events[-1]["wall"]) if told.events else "none"
    words = f"Written by dougong {__version__} at {_moment(datetime.now(timezone.utc).isoformat())}; last event {last}."
    return tag("footer", f"{words} All times UTC.")


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Markup]) -> Markup:
    head = tag("tr", *(tag("th", text, class_=look or None) for text, look in heads))
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _moment(wall: str, with_date: bool = True) -> str:
    """A wall time of an event (ISO 8601), in UTC."""
    at = datetime.fromisoformat(wall.replace("Z", "+00:00")).astimezone(timezone.utc)
    return at.strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")
