"""What people are told of an examination."""

from __future__ import annotations

from dougong.cli.doctor.words import check_table, symptom_lines, verdict
from dougong.doctor.examine import judge
from dougong.doctor.record import DoctorReport
from rich.console import Console
from tests.doctor.made import sound, speed, with_speeds


def report(**changes: object) -> DoctorReport:
    found = with_speeds(sound(), {"n1": speed(matmul=1e10, cpu_share=0.1)})
    made = DoctorReport(
        where="the Ray cluster 10.0.0.1:6379", job="", quick=False, nodes=("a", "b", "c"), wall="", seconds=62.0,
        checks=judge(found),
    )  # fmt: skip
    return made.model_copy(update=changes)


def test_who_is_to_be_mended_is_the_last_word() -> None:
    found = report()
    assert verdict(found) == "the Ray cluster 10.0.0.1:6379: 1 check failed; look at node1 (10.0.0.2) (3 nodes, 1:02)"
    lines = list(symptom_lines(found.failed[0]))
    assert lines[0].startswith("matmul: matmul of node1") and lines[1].startswith("  -> end what else runs there")
    whole = report(checks=judge(sound()))
    assert verdict(whole).startswith("the Ray cluster 10.0.0.1:6379: sound, by 19 checks; 1 not run")


def test_the_table_has_a_row_for_each_check_and_more_on_demand() -> None:
    console = Console(width=200)
    with console.capture() as told:
        console.print(check_table(report(), False))
    short = told.get()
    with console.capture() as told:
        console.print(check_table(report(), True))
    assert "(and 2 more: --evidence)" in short and "--evidence" not in told.get()
    assert all(check.name in short for check in report().checks)
