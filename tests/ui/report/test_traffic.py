"""The bytes of a step in the report."""

from __future__ import annotations

from pathlib import Path

from dougong.ui.history import read_history
from dougong.ui.report.page import write_report
from dougong.ui.report.traffic import TrafficRow, TrafficTable, traffic_table
from tests.ui.recorded import Recorder

LINK = {"planned": {"rows": 2048.0, "weights": 100.0}, "sent": {"rows": 3072.0, "weights": 100.0}, "messages": 12.0}


def test_the_newest_step_that_says_it_is_shown(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    for step in (1, 2, 3):
        traffic = {"traffic": {"steps": 2, "links": {"east > west": LINK}}} if step == 2 else {}
        recorder.run.append_metrics({**recorder.row(1, step), **traffic})
    assert traffic_table(read_history(recorder.run)) == TrafficTable(
        2,
        (
            TrafficRow("east > west", "rows", 2048.0, 3072.0),
            TrafficRow("east > west", "weights", 100.0, 100.0),
            TrafficRow("east > west", "in all", 2148.0, 3172.0),
        ),
    )
    page = write_report(recorder.run).read_text(encoding="utf-8")
    assert "the mean of 2 steps, planned and sent" in page
    assert "east &gt; west" in page and "2.0 KiB" in page and "3.1 KiB" in page


def test_a_run_that_does_not_tell_has_no_such_section(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.start()
    recorder.run.append_metrics(recorder.row(1, 1))
    assert traffic_table(read_history(recorder.run)) is None
    assert "Bytes of a step" not in write_report(recorder.run).read_text(encoding="utf-8")
