"""This machine examined, and the report as a page."""

from __future__ import annotations

from pathlib import Path

from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.examine import CHECKS, examine_here, judge, keep, render, report_of_none
from dougong.doctor.record import FILE, DoctorReport
from tests.doctor.made import sound, speed, title, with_speeds


def test_this_machine_is_looked_at_in_a_moment(tmp_path: Path) -> None:
    told: list[str] = []
    found = examine_here(DoctorRequest(None, True, str(tmp_path)), told.append)
    assert found.is_sound, found.failed
    assert len(found.nodes) == 1 and len(found.checks) == len(CHECKS) and told
    assert {check.name for check in found.checks if check.grade == "not run"} == {
        "token", "clock", "shared folder", "files", "matmul", "bits", "memory bandwidth", "storage speed", "links",
    }  # fmt: skip


def test_a_page_and_json_are_kept_and_say_who_is_named(tmp_path: Path) -> None:
    checks = judge(with_speeds(sound(), {"n1": speed(matmul=1e10, cpu_share=0.1, name="EPYC")}))
    found = DoctorReport(
        where="the lab <1>", job="", quick=False, nodes=(title(0),), wall="2026-01-01T00:00:00+00:00", seconds=3.0,
        checks=checks,
    )  # fmt: skip
    page = keep(found, tmp_path / "out")
    text = page.read_text()
    assert "matmul of node1 (10.0.0.2)" in text and "&lt;1&gt;" in text and "To be mended first" in text
    assert DoctorReport.model_validate_json((tmp_path / "out" / FILE).read_text()) == found
    assert "Nothing was found" in render(found.model_copy(update={"checks": ()}))


def test_a_cluster_that_cannot_be_joined_is_one_finding() -> None:
    request = DoctorRequest(None, True, "runs")
    found = report_of_none(request, "10.0.0.9:6379", "nobody answers; start it there", 0.0)
    assert [check.name for check in found.failed] == ["cluster"] and not found.nodes
    assert (found.failed[0].symptoms[0].words, found.failed[0].symptoms[0].remedy) == (
        "nobody answers", "start it there",
    )  # fmt: skip
