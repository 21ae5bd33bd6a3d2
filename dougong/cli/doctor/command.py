"""`dougong doctor`: whether every node is what a run needs, before there is one."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dougong.cli.doctor.words import print_report, symptom_lines, verdict
from dougong.cli.options import Address, Overrides
from dougong.doctor.apart import examine_apart
from dougong.doctor.ask.demand import DoctorRequest
from dougong.doctor.examine import examine_here, keep, report_of_none
from dougong.doctor.record import DoctorReport
from dougong.errors import LaunchError, PlaceError
from dougong.job.schema import Job
from dougong.launcher.backends.ray_choice import RayChoice, choose_ray, surroundings
from dougong.models.library.loading import load_transformers
from dougong.planner.needs.holdings import checkpoint_bytes
from dougong.records.files import why_not_writable
from dougong.tools.job_check import load_whole_job


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
    if override and file is None:
        raise PlaceError("-o changes a key of a job file; name the file too")
    job = None if file is None else load_whole_job(file, override or []).job
    _refuse_no_folder(out)
    console = Console(highlight=False, stderr=as_json)
    room_bytes = 0 if job is None or quick else checkpoints_bytes(job)
    request = DoctorRequest(job, quick, str(run_dir.absolute()), room_bytes)
    found = _found(request, address, run_dir, console)
    if out is not None:
        keep(found, out)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        print_report(found, console, evidence, out)
    if not found.is_sound:
        raise typer.Exit(1)


def _found(
    request: DoctorRequest, address: str | None, run_dir: Path, console: Console
) -> DoctorReport:
    """As `examined`, of the Ray that is asked for; that there is none to choose is a finding, too.
    PlaceError for an address that is none."""
    begun = time.monotonic()
    try:
        choice = choose_ray(address, surroundings(run_dir))
    except PlaceError:
        raise
    except LaunchError as error:
        return report_of_none(request, "the Ray cluster of this machine", str(error), begun)
    return examined(request, choice, console)


def checkpoints_bytes(job: Job) -> int:
    """What all checkpoints take that a run keeps, and the next one. ModelError where the model
    cannot be built."""
    from dougong.training.start.preflight import inspect_only

    load_transformers()
    return (job.checkpoint.keep + 1) * checkpoint_bytes(job, inspect_only(job))


def _refuse_no_folder(out: Path | None) -> None:
    """Before anything is looked at, for a report that could not be kept."""
    why = "" if out is None else why_not_writable(out)
    if why:
        raise PlaceError(f"--out {out}: {why}; name another place for the report")


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
    """The quick half, before a run: a line where all is sound, LaunchError with all that was found
    where it is not."""
    request = DoctorRequest(job, True, str(run_dir.absolute()))
    found = examined(request, choice, Console(highlight=False))
    if not found.is_sound:
        lines = itertools.chain.from_iterable(symptom_lines(check) for check in found.failed)
        raise LaunchError("\n".join([*lines, verdict(found), "nothing was started"]))
    typer.echo(f"doctor: {verdict(found)}")
