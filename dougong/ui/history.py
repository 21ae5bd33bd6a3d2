"""What happened in a run, read from its directory and put together: for the report and the closing
words. Pure reading.

Also for a run that goes on, was stopped, failed, or whose controller was killed. Durations between
two events use the monotonic clock, which holds within one *sitting* (from a controller's start to
its end); the time between sittings is not the run's.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dougong.parallel.plan import Plan
from dougong.records.directory import MetricsRow, RunDir, live_rows
from dougong.records.events import to_json
from dougong.ui.formatting import FINAL_KINDS, cause_of, count, duration, plural

Event = dict[str, Any]
FAILURE_KINDS = ("worker_died", "agent_lost", "node_lost", "diagnosis")


@dataclass(frozen=True)
class Recovery:
    """One failure and what followed. Seconds are None as long as (or because) that part did not
    happen.

    noticed_s: from the fault to its notice, known for drills. restart_s: from the notice to the
    start of the next generation. reload_s: from there to the end of its first step. `detail`: a
    traceback, or the worker's last lines.
    """

    generation: int
    worker: str
    fault: str
    cause: str
    wall: str
    step: int
    resumed_from: str | None = None
    noticed_s: float | None = None
    restart_s: float | None = None
    reload_s: float | None = None
    lost_steps: int | None = None
    detail: str = ""

    @property
    def total_s(self) -> float | None:
        """From the fault (or its notice) to the next generation's first step."""
        if self.restart_s is None or self.reload_s is None:
            return None
        return (self.noticed_s or 0.0) + self.restart_s + self.reload_s


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint that was committed. `rejected` holds the reason when a later load refused
    it."""

    step: int
    name: str
    num_bytes: float | None
    seconds: float | None
    wall: str
    present: bool
    rejected: str = ""


@dataclass(frozen=True)
class History:
    """A run, told. `rows` are the present history; `rewound` are the stretches that later attempts
    went over again.

    `classes`: worker -> class of its device's arithmetic, as last found. `command`: one line for
    each controller that the run had. `failed_worker`, `failed_generation`: the first failure's.
    """

    path: Path
    job_name: str
    job_text: str
    command: str
    state: str
    cause: str
    failed_worker: str
    failed_generation: int
    steps: int
    duration_s: float
    rows: list[MetricsRow]
    rewound: list[list[MetricsRow]]
    recoveries: list[Recovery]
    checkpoints: list[CheckpointRecord]
    events: list[Event]
    plan: Plan | None
    machine: dict[str, Any] = field(default_factory=dict)
    agents: list[dict[str, Any]] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step of the present history; 0 before the first."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def tokens(self) -> int:
        """Tokens of the present history's steps."""
        return sum(row["tokens"] for row in self.rows)

    @property
    def generation(self) -> int:
        """The newest generation."""
        return max((e["generation"] for e in self.events), default=0)

    @property
    def validation(self) -> tuple[int, float] | None:
        """The last validation: step and loss."""
        found = [
            (row["step"], row["val_loss"]) for row in self.rows if row.get("val_loss") is not None
        ]
        return found[-1] if found else None


def read_history(run_dir: RunDir) -> History:
    """Read all of a run. LaunchError when a file of it is broken."""
    events, rows = [to_json(e) for e in run_dir.read_events()], run_dir.read_metrics()
    status = run_dir.read_status() or {}
    created = _last(events, "created")
    failed = _last(events, "failed") if _state(events, status) == "failed" else {}
    job_text = run_dir.read_job()
    live, rewound = split_rows(rows)
    return History(
        path=run_dir.path,
        job_name=str(created.get("job") or _yaml_value(job_text, "job") or run_dir.path.name),
        job_text=job_text,
        command="\n".join(filter(None, (_command(e) for e in events if e["kind"] == "created"))),
        state=_state(events, status),
        cause=cause_of(failed),
        failed_worker=str(failed.get("worker") or ""),
        failed_generation=_generation_of(failed, events),
        steps=int(status.get("steps") or _yaml_value(job_text, "steps") or 0),
        duration_s=sum(
            last["monotonic_s"] - first["monotonic_s"] for first, last in _sittings(events)
        ),
        rows=live,
        rewound=rewound,
        recoveries=find_recoveries(events, rows),
        checkpoints=find_checkpoints(events, run_dir.checkpoints),
        events=events,
        plan=run_dir.read_plan(),
        machine=created.get("machine") or {},
        agents=[
            a for a in _last(events, "agents_started").get("agents") or [] if isinstance(a, dict)
        ],
        classes=dict(_last(events, "fingerprints").get("classes") or {}),
        workers=list(status.get("workers") or []),
    )


def split_rows(rows: Sequence[MetricsRow]) -> tuple[list[MetricsRow], list[list[MetricsRow]]]:
    """The present history and, for each attempt that was rewound, its rows that no longer count, in
    order."""
    live = live_rows(rows)
    kept = {id(row) for row in live}
    stretches: dict[int, list[MetricsRow]] = {}
    for row in rows:
        if id(row) not in kept:
            stretches.setdefault(row["attempt"], []).append(row)
    return live, list(stretches.values())


def find_recoveries(events: Sequence[Event], rows: Sequence[MetricsRow]) -> list[Recovery]:
    """One entry for each generation that a failure ended, in order; the first failure of a
    generation is its cause."""
    found: list[Recovery] = []
    noticed: Event | None = None
    started: Event | None = None
    drill: Event | None = None
    for event in events:
        kind, generation = event["kind"], event["generation"]
        if kind == "drill":
            drill = event
        elif kind in FAILURE_KINDS and not any(r.generation == generation for r in found):
            found.append(_failure(event, drill, rows))
            noticed, started, drill = event, None, None
        elif kind in FAILURE_KINDS and found and found[-1].generation == generation:
            found[-1] = _better_named(found[-1], event)
        elif kind in ("created", "resumed", *FINAL_KINDS):
            noticed = started = drill = None
        elif (
            kind == "generation_started"
            and noticed is not None
            and generation > noticed["generation"]
        ):
            started = event
            resume = str(event.get("resume") or "").rstrip("/").rpartition("/")[2] or None
            found[-1] = replace(found[-1], restart_s=_between(noticed, event), resumed_from=resume)
        elif kind == "first_step" and started is not None:
            lost = max(found[-1].step - int(event.get("step", found[-1].step + 1)) + 1, 0)
            found[-1] = replace(found[-1], reload_s=_between(started, event), lost_steps=lost)
            noticed = started = None
    return found


def find_checkpoints(events: Sequence[Event], directory: Path) -> list[CheckpointRecord]:
    """All that were ever committed, by time; a rejected one carries its reason, a pruned one is not
    `present`."""
    found: dict[str, CheckpointRecord] = {}
    for event in events:
        if event["kind"] == "checkpoint_committed":
            name = _name(event)
            present = (directory / name).is_dir()
            found[name] = CheckpointRecord(
                int(event.get("step", 0)),
                name,
                event.get("bytes"),
                event.get("seconds"),
                event["wall"],
                present,
            )
        elif event["kind"] == "checkpoint_rejected" and _name(event) in found:
            found[_name(event)] = replace(
                found[_name(event)], rejected=cause_of(event) or "no reason given"
            )
    return list(found.values())


def closing_words(run_dir: RunDir) -> str:
    """Two lines for the end of a run on the screen: what came of it, and what to type next."""
    told = read_history(run_dir)
    parts = [
        f"{told.job_name}: {told.state} at step {told.last_step}/{told.steps}",
        f"{count(told.tokens)} tokens",
    ]
    parts.append(duration(told.duration_s))
    parts += [f"loss {told.rows[-1]['loss']:.4f}"] if told.rows else []
    parts += [plural(len(told.recoveries), "failure")] if told.recoveries else []
    return f"{', '.join(parts)}\nnext: {next_command(told)}"


def next_command(told: History) -> str:
    """The next thing to type, by the run's state."""
    commands = {"finished": "dougong export {} OUT", "running": "dougong status {}", "starting": "dougong status {}",
                "recovering": "dougong status {}", "stopping": "dougong status {}"}  # fmt: skip
    return commands.get(told.state, "dougong resume {}").format(told.path)


def _failure(event: Event, drill: Event | None, rows: Sequence[MetricsRow]) -> Recovery:
    reached = [row["step"] for row in rows if row["attempt"] == event["generation"]]
    same = drill is not None and drill["generation"] == event["generation"]
    return Recovery(
        generation=event["generation"],
        worker=str(event.get("worker") or event.get("node") or "?"),
        fault=str(event.get("class") or ""),
        cause=str(event.get("cause") or event.get("reason") or ""),
        wall=event["wall"],
        step=max(
            reached,
            default=max((r["step"] for r in rows if r["attempt"] < event["generation"]), default=0),
        ),
        noticed_s=_between(drill, event) if same and drill is not None else None,
    )


def _generation_of(failed: Event, events: Sequence[Event]) -> int:
    """In which generation the worker that `failed` names had died first, since the last
    controller's start."""
    generation = int(failed.get("generation", 0))
    for event in reversed(events):
        if event["kind"] == "worker_died" and event.get("worker") == failed.get("worker"):
            generation = event["generation"]
        elif event["kind"] == "created":
            break
    return generation


def _better_named(recovery: Recovery, event: Event) -> Recovery:
    """A diagnosis of the same generation knows the class; the first cause stays when there is
    one."""
    if event["kind"] != "diagnosis":
        return recovery
    return replace(
        recovery,
        worker=str(event.get("worker") or recovery.worker),
        fault=str(event.get("class") or recovery.fault),
        cause=str(event.get("cause") or event.get("reason") or recovery.cause),
        detail=str(event.get("detail") or recovery.detail).rstrip(),
    )


def _state(events: Sequence[Event], status: dict[str, Any]) -> str:
    state = str(status.get("state") or "starting").lower()
    for event in events:
        if event["kind"] in FINAL_KINDS:
            state = event["kind"]
        elif event["kind"] == "state":
            state = str(event.get("state")).lower()
        elif event["kind"] in ("created", "resumed"):
            state = "starting"
        elif event["kind"] == "generation_started":
            state = "running"
    return "lost" if state not in FINAL_KINDS and _controller_is_gone(status) else state


def _controller_is_gone(status: dict[str, Any]) -> bool:
    """Only what this machine can know: the controller ran here and its process is no more."""
    controller = status.get("controller") or {}
    if controller.get("host") != socket.gethostname() or not isinstance(controller.get("pid"), int):
        return False
    try:
        os.kill(controller["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, as somebody else
        return False
    return False


def _sittings(events: Sequence[Event]) -> list[tuple[Event, Event]]:
    """First and last event of each controller's life."""
    spans: list[tuple[Event, Event]] = []
    for event in events:
        begins = event["kind"] in ("created", "resumed")
        backwards = bool(spans) and event["monotonic_s"] < spans[-1][1]["monotonic_s"]
        after_end = bool(spans) and spans[-1][1]["kind"] in FINAL_KINDS and event["kind"] != "state"
        if not spans or begins or backwards or after_end:
            spans.append((event, event))
        else:
            spans[-1] = (spans[-1][0], event)
    return spans


def _between(first: Event, last: Event) -> float:
    return max(float(last["monotonic_s"]) - float(first["monotonic_s"]), 0.0)


def _last(events: Sequence[Event], kind: str) -> Event:
    return next((e for e in reversed(events) if e["kind"] == kind), {})


def _name(event: Event) -> str:
    name = str(event.get("directory") or "").rstrip("/").rpartition("/")[2]
    return name or f"step-{int(event.get('step', 0)):06d}"


def _command(created: Event) -> str:
    """The words as a shell takes them."""
    words = created.get("command") or ""
    if not isinstance(words, list):
        return str(words)
    typed = shlex.join(map(str, words))
    return (
        "python -m dougong" + typed.removeprefix("__main__.py")
        if words[:1] == ["__main__.py"]
        else typed
    )


def _yaml_value(text: str, key: str) -> str:
    """A top-level scalar of the resolved job file, which dougong itself wrote; empty when it is not
    there."""
    line = next((line for line in text.splitlines() if line.startswith(f"{key}:")), "")
    return line.partition(":")[2].partition("#")[0].strip().strip("'\"")
