"""Events: what a line holds, files of earlier releases, and lines that are no events."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import LaunchError
from dougong.records.directory import RunDir
from dougong.records.events import (
    CheckpointCommitted,
    FailureDiagnosed,
    GenerationStarted,
    RunCreated,
    RunEnded,
    StepSkipped,
    WarningRaised,
    from_json,
    to_json,
)

CLOCKS = {"monotonic_s": 1.5, "wall": "2025-01-01T00:00:00.000Z"}


def test_a_line_has_the_names_that_readers_know() -> None:
    committed = CheckpointCommitted(generation=1, step=5, directory="step-000005", num_bytes=7, seconds=0.5)
    assert to_json(committed) == {
        "kind": "checkpoint_committed", "generation": 1, "fence": 0, "monotonic_s": 0.0, "wall": "", "step": 5,
        "directory": "step-000005", "bytes": 7, "seconds": 0.5, "after_failures": 0,
    }  # fmt: skip
    failed = RunEnded(kind="failed", generation=2, step=4, cause="boom", worker="east/1", failure="crash")
    assert to_json(failed)["class"] == "crash"


@pytest.mark.parametrize(
    "event",
    [
        RunCreated(generation=1, job="tiny", command=("dougong", "run")),
        GenerationStarted(generation=2, workers=("east/0", "east/1"), resume="step-000005", step=5),
        FailureDiagnosed(generation=1, worker="east/1", failure="hang", cause="silent", followed_by=("east/0",)),
        RunEnded(kind="finished", generation=1, step=20),
        StepSkipped(generation=1, step=7, loss=2.5, grad_norm=math.inf, where="the gradient of a", in_a_row=2),
    ],
)
def test_an_event_comes_back_from_its_line(event: RunCreated, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    written = run.append_event(event)
    assert run.read_events() == [written]
    assert written == event.model_copy(update={"monotonic_s": written.monotonic_s, "wall": written.wall})


def test_a_duration_that_is_no_number_comes_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_event(CheckpointCommitted(generation=1, step=1, directory="d", num_bytes=1, seconds=math.inf))
    (event,) = run.read_events()
    assert isinstance(event, CheckpointCommitted) and event.seconds == math.inf


AGENT = {"role": "agent", "node": "forge", "island": "east", "devices": None, "pid": 7}
OLDER = [
    {"kind": "created", "job": "tiny", "command": ["dougong", "run"], "machine": {"host": "forge", "disk": 1}},
    {"kind": "agents_started", "agents": [AGENT]},
    {"kind": "inspected", "family": "qwen3_moe", "parameters": 7, "tensors": 3, "sites": 1, "experts": 16},
    {"kind": "planned", "workers": 2, "lanes": 4, "experts": 16},
    {"kind": "generation_started", "workers": ["east/0"], "resume": None, "step": 0},
    {"kind": "worker_died", "worker": "east/1", "class": "crash", "cause": "SIGKILL"},
    {"kind": "checkpoint_committed", "step": 5, "directory": "step-000005", "bytes": 7, "seconds": 0.1},
    {"kind": "failed", "step": 5, "cause": "no GPU"},
]


@pytest.mark.parametrize("fields", OLDER)
def test_lines_of_earlier_releases_are_read(fields: dict[str, Any]) -> None:
    event = from_json({**fields, "generation": 1, **CLOCKS})
    assert to_json(event)["kind"] == fields["kind"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"kind": "spare_promoted", "generation": 1}', "kind 'spare_promoted'.*release of dougong that wrote it"),
        ('{"generation": 1}', "kind None"),
        ('{"kind": "first_step", "generation": 1}', "kind 'first_step', first_step.step: Field required"),
    ],
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str, fault: str) -> None:
    run = RunDir(tmp_path)
    run.append_event(WarningRaised(generation=1, text="slow"))
    with run.events_file.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LaunchError, match=rf"events\.jsonl:2: not an event of this release: {fault}"):
        run.read_events()
