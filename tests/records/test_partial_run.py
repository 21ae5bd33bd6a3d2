"""What workers are asked to do of a run, and traces, by way of the run directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from dougong.parallel.trace.trace_key import BACKWARD, FORWARD, TraceKey
from dougong.records.partial_run import PartialRun, StepTrace


@pytest.mark.parametrize("request_", [PartialRun(3), PartialRun(3, trace=2), PartialRun(3, save=True)])
def test_a_request_is_read_as_it_was_written(request_: PartialRun, tmp_path: Path) -> None:
    request_.write(tmp_path)
    assert PartialRun.load(tmp_path) == request_
    assert [file.name for file in tmp_path.iterdir()] == ["partial_run.json"]


def test_all_workers_traces_are_one(tmp_path: Path) -> None:
    first = {TraceKey(0, 1, FORWARD, 2, "hidden"): 2**64 - 1}
    second = {TraceKey(1, 0, BACKWARD, 0, "drows", 5): 7}
    StepTrace(("x.experts",), first).write(tmp_path, "east/0")
    StepTrace(("x.experts",), second).write(tmp_path, "west/0")
    assert StepTrace.read(tmp_path) == StepTrace(("x.experts",), first | second)


def test_a_run_that_traced_nothing_has_an_empty_trace(tmp_path: Path) -> None:
    assert StepTrace.read(tmp_path) == StepTrace((), {})
