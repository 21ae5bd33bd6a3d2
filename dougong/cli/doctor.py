"""`dougong doctor`: whether every node is what a run needs, before there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.cli.options import Address, Overrides
from dougong.doctor.apart import examine_apart
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.examine import examine_here, keep
from dougong.doctor.record import FILE, DoctorCheck, DoctorReport
from dougong.errors import LaunchError
from dougong.job.schema import Job
from dougong.launcher.backends.ray_choice import RayChoice, choose_ray, surroundings
from dougong.tools.job_check import load_whole_job
from dougong.ui.formatting import duration, plural

_BAD_INPUT = 2


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[JOB]", help="Look at what this job needs; default: at any node."),
    ] = None,
    override: Overrides = None,
    address: Address = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure nothing: seconds, and no device is used.")
    ] = False,
    run_dir: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where runs lie, or will."),
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a page and JSON there.", show_default=False),
    ] = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Also what was seen of sound nodes.")
    ] = False,
) -> None:
    """Check every node before a job: against its peers, and against this machine.

    Software, token, network, ports, clock, storage, limits, devices; without --quick also speed and
    bits of devices, memory, storage and links. A node that does not answer is one of the findings.

    Exit status: 0 sound, 1 a check failed, 2 bad input.

    Example: dougong doctor examples/quickstart.yaml --quick
    """
    job = None if file is None else load_whole_job(file, override or []).job
    if override and file is None:
        typer.echo("-o changes a key of a job file; name the file too", err=True)
        raise typer.Exit(_BAD_INPUT)
    choice = _choice(address, run_dir)
    console = Console(highlight=False, stderr=as_json)
    found = examined(DoctorRequest(job, quick, str(run_dir.absolute())), choice, console)
    if out is not None:
        _keep(found, out)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        print_report(found, console, evidence, out)
    if not found.is_sound:
        raise typer.Exit(1)


def _choice(address: str | None, run_dir: Path) -> RayChoice:
    """An address that is none is bad input."""
    try:
        return choose_ray(address, surroundings(run_dir))
    except LaunchError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_BAD_INPUT) from error


def _keep(found: DoctorReport, out: Path) -> None:
    try:
        keep(found, out)
    except OSError as error:
        text = f"--out {out}: {error.strerror}; name another place for the report"
        typer.echo(text, err=True)
        raise typer.Exit(_BAD_INPUT) from error


def examined(request: DoctorRequest, choice: RayChoice, console: Console) -> DoctorReport:
    """With a line, on a terminal, that says what is being done. JobError for DOUGONG_PORTS that are
    none."""
    assert request.ports is None or len(request.ports) > 0
    with console.status("") as line:

        def tell(doing: str) -> None:
            line.update(escape(doing))

        if choice.address is None:
            return examine_here(request, tell)
        return examine_apart(request, choice, tell)


def refuse_unsound(job: Job, choice: RayChoice, run_dir: Path) -> None:
    """The quick half, before a run: LaunchError with all that was found."""
    request = DoctorRequest(job, True, str(run_dir.absolute()))
    found = examined(request, choice, Console(highlight=False))
    if not found.is_sound:
        lines = [line for check in found.failed for line in symptom_lines(check)]
        raise LaunchError("\n".join([*lines, verdict(found), "nothing was started"]))


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
