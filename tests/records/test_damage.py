"""A run's files after a disk or a person has damaged them: one sentence that names the place and the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dougong.errors import RecordError
from dougong.records.damage import rows_note
from dougong.records.directory import RunDir
from dougong.records.metrics import REPORTED
from tests.ui.recorded import finished_run

BINARY = b"\xff\xfe\x00\x01"
ANEW = "; read it with the release of dougong that wrote it, or delete the file: a resume writes it anew"
LINE = "; restore the line or delete it"
RELEASE = "; read the run with the release of dougong that wrote it"
COPY = "from a copy"

Damage = tuple[str, bytes, str, str]
"""The file's name, what it holds now, what is said after its name, and how the sentence ends."""


def with_value(text: str, place: tuple[str | int, ...], value: Any) -> bytes:
    """JSON with another value at a place; left out for `...`."""
    raw = json.loads(text)
    *parents, last = place
    inner = raw
    for part in parents:
        inner = inner[part]
    inner[last] = value
    if value is ...:
        del inner[last]
    return json.dumps(raw).encode()


WORKER = {
    "name": "east/0", "rank": 0, "island": "east", "role": "both", "node": "forge", "device": "cpu", "lanes": [0],
    "experts": [[0, 1]],
}  # fmt: skip
PLAN = json.dumps({"num_lanes": 1, "num_experts": 2, "workers": [WORKER], "owners": {"embed": 0}})
STATUS = json.dumps({"state": "RUNNING", "workers": [{"name": "east/0", "experts": [[0]]}]})
ROW = json.dumps({"generation": 1, "step": 1, "loss": 2.5, "tokens": 8, "tokens_per_s": 4.0, "step_s": 2.0})
EVENT = json.dumps({"kind": "warning", "generation": 1, "text": "", "wall": "2025-11-22T09:30:00.000Z"})

WHOLE_FILES: list[Damage] = [
    ("plan.json", b"{", ": Invalid JSON", ANEW),
    ("plan.json", b"[]", ": Input should be", ANEW),
    ("plan.json", BINARY, ": byte 0 is not UTF-8 text", COPY),
    ("plan.json", with_value(PLAN, ("owners",), ...), ": owners: Field required", ANEW),
    ("plan.json", with_value(PLAN, ("colour",), 1), ": colour: unknown key", ANEW),
    ("plan.json", with_value(PLAN, ("workers", 0, "colour"), 1), ": workers.0.colour: unknown key", ANEW),
    ("plan.json", with_value(PLAN, ("workers", 0, "experts"), "0-1 y2"),
     ": workers.0.experts: '0-1 y2' is not written as in `0-3 x2 | none | 4`", ANEW),
    ("plan.json", with_value(PLAN, ("workers", 0, "role"), "cook"),
     ": workers.0.role: Input should be 'attention', 'experts' or 'both' (got 'cook')", ANEW),
    ("plan.json", with_value(PLAN, ("num_experts",), 3), ": site 0: its workers own experts [0, 1], but each", ANEW),
    ("status.json", b"{", ": Invalid JSON", ANEW),
    ("status.json", BINARY, ": byte 0 is not UTF-8 text", COPY),
    ("status.json", with_value(STATUS, ("workers", 0, "experts"), "0-1 y2"), ": workers.0.experts: '0-1 y2' is", ANEW),
    ("status.json", with_value(STATUS, ("state",), "WHATEVER"),
     ": state: must be one of STARTING, RUNNING, STOPPING, RECOVERING, GROWING, FINISHED, STOPPED, FAILED, "
     "LOST (got 'WHATEVER')", ANEW),
    ("lease/0.address", b'{"host": 7}', ": host: Input should be a valid string (got 7)",
     "; if no process of this run is left, delete the file"),
    ("job.yaml", BINARY, ": byte 0 is not UTF-8 text", COPY),
]  # fmt: skip

LINES: list[Damage] = [
    ("metrics.jsonl", BINARY, "not JSON", LINE),
    ("metrics.jsonl", b"[" * 100_000, "not JSON", LINE),
    ("metrics.jsonl", with_value(ROW, ("step",), ...), "not a row of a step: step: Field required", LINE),
    ("metrics.jsonl", with_value(ROW, ("step",), "x"),
     "not a row of a step: step: Input should be a valid integer (got 'x')", LINE),
    ("metrics.jsonl", with_value(ROW, ("step",), True), "not a row of a step: step: Input should be", LINE),
    ("metrics.jsonl", with_value(ROW, ("loss",), "low"), "not a row of a step: loss: Input should be", LINE),
    ("metrics.jsonl", with_value(ROW, ("tokens",), ...), "not a row of a step: tokens: Field required", LINE),
    ("metrics.jsonl", with_value(ROW, ("islands",), {"east": 1}), "not a row of a step: islands.east: Input", LINE),
    ("metrics.jsonl", with_value(ROW, ("load",), {"max_over_mean": []}), "not a row of a step: load.max_over", LINE),
    ("events.jsonl", with_value(EVENT, ("wall",), "yesterday"),
     "not an event of this release: kind 'warning', warning.wall: must be a time such as 2025-11-22T09:30:00.000Z "
     "(got 'yesterday')", RELEASE),
    ("events.jsonl", with_value(EVENT, ("wall",), ...),
     "not an event of this release: kind 'warning', wall: Field required", RELEASE),
]  # fmt: skip

READERS: dict[str, Callable[[RunDir], Any]] = {
    "plan.json": RunDir.read_plan,
    "status.json": RunDir.read_status,
    "lease/0.address": RunDir.read_controller,
    "job.yaml": RunDir.read_job,
    "metrics.jsonl": lambda run: run.read_metrics(REPORTED),
    "events.jsonl": RunDir.read_events,
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return finished_run(tmp_path / "run")


def refusal(run: RunDir, name: str) -> str:
    with pytest.raises(RecordError) as caught:
        READERS[name](run)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "words", "end"), WHOLE_FILES)
def test_a_damaged_file_is_named_with_its_place(run: RunDir, name: str, content: bytes, words: str, end: str) -> None:
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_bytes(content)
    text = refusal(run, name)
    assert text.startswith(f"{run.path / name}{words}") and text.endswith(end) and "\n" not in text


@pytest.mark.parametrize(("name", "content", "words", "end"), LINES, ids=lambda value: str(value)[:40])
def test_a_damaged_line_is_named_with_its_number(run: RunDir, name: str, content: bytes, words: str, end: str) -> None:
    file = run.path / name
    num_lines = len(file.read_bytes().splitlines())
    with file.open("ab") as lines:
        lines.write(content + b"\n")
    text = refusal(run, name)
    assert text.startswith(f"{file}:{num_lines + 1}: {words}") and text.endswith(end) and "\n" not in text


@pytest.mark.parametrize("name", list(READERS))
def test_a_directory_in_a_file_s_place_is_named(run: RunDir, name: str) -> None:
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir(parents=True)
    assert re.search(rf"{name}: cannot be read: Is a directory; restore it from a copy$", refusal(run, name))


def test_numbers_that_are_not_finite_are_no_damage(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    row = json.loads(ROW) | {"grad_norm": "NaN", "loss": "Infinity", "val_loss": None, "of_another_release": [1]}
    run.append_metrics(row)
    assert run.read_metrics(REPORTED)[0]["of_another_release"] == [1]
    assert RunDir(tmp_path).read_metrics(["val_loss"])[0]["val_loss"] is None


def test_damaged_rows_are_left_out_where_somebody_notes_them(run: RunDir) -> None:
    first, second, *others = run.metrics_file.read_text().splitlines()
    run.metrics_file.write_text("\n".join([first, second[:-9], '{"step": "x"}', *others, ""]))
    faults: list[RecordError] = []
    rows = run.read_metrics(REPORTED, faults.append)
    assert [row["step"] for row in rows[:2]] == [1, 3] and len(rows) == 1 + len(others)
    note = rows_note(faults)
    assert note.startswith(f"{run.metrics_file}:2: not JSON (") and rows_note([]) == ""
    assert note.endswith("; restore the line or delete it (and 1 more such); what is told here is without it")
    assert list(run.stream_metrics(lambda _: None)) == rows
    with pytest.raises(RecordError):
        run.read_last_metrics()
