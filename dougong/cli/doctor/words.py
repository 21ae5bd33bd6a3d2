"""What people are told of an examination."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.doctor.record import FILE, DoctorCheck, DoctorReport
from dougong.ui.formatting import duration, plural


def print_report(
    found: DoctorReport, console: Console, evidence: bool = False, out: Path | None = None
) -> None:
    """For people: a row for each check, then what is to be mended."""
    console.print(check_table(found, evidence))
    for check in found.failed:
        for line in symptom_lines(check):
            console.print(line, markup=False, soft_wrap=True)
    console.print(verdict(found), markup=False, soft_wrap=True)
    if out is not None:
        console.print(str(out / FILE), markup=False, soft_wrap=True)


def check_table(found: DoctorReport, evidence: bool) -> Table:
    """Each check, its grade, and what was seen; of a sound one the first line, unless all of the
    `evidence` is wanted."""
    table = Table("check", "", "seen", box=box.SIMPLE)
    for check in found.checks:
        colour = {"sound": "green", "failed": "bold red", "not run": "dim"}[check.grade]
        seen = "\n".join(_seen(check, evidence))
        table.add_row(check.name, f"[{colour}]{check.grade}[/]", escape(seen))
    return table


def _seen(check: DoctorCheck, evidence: bool) -> list[str]:
    lines = [*check.evidence, *(f"note: {text}" for text in check.remarks)]
    if evidence or len(lines) <= 1:
        return lines
    notes = [f"note: {text}" for text in check.remarks]
    if not check.evidence:
        return notes
    more = len(check.evidence) - 1
    first = check.evidence[0] + (f" (and {more} more: --evidence)" if more else "")
    return [first, *notes]


def symptom_lines(check: DoctorCheck) -> Iterator[str]:
    """What is wrong, and what to do."""
    for symptom in check.symptoms:
        yield f"{check.name}: {symptom.words}"
        yield f"  -> {symptom.remedy}"


def verdict(found: DoctorReport) -> str:
    """The last word."""
    took = f"{plural(len(found.nodes), 'node')}, {duration(found.seconds)}"
    if found.is_sound:
        num_sound = sum(check.grade == "sound" for check in found.checks)
        left = len(found.checks) - num_sound
        not_run = f"; {left} not run" if left else ""
        return f"{found.where}: sound, by {plural(num_sound, 'check')}{not_run} ({took})"
    who = f"; look at {', '.join(found.named)}" if found.named else ""
    return f"{found.where}: {plural(len(found.failed), 'check')} failed{who} ({took})"
