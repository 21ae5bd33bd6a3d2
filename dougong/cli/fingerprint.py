"""`dougong fingerprint`: which bits this machine's kernels give, and whether another's are the
same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.options import Overrides
from dougong.errors import PlaceError
from dougong.fingerprint.cache import Probing
from dougong.fingerprint.judge import difference
from dougong.fingerprint.record import Fingerprint
from dougong.job.schema import Job
from dougong.tools.fingerprint_apart import measure_apart
from dougong.tools.job_check import load_whole_job
from dougong.ui.formatting import plural


def fingerprint(
    file: Annotated[
        Path | None, typer.Argument(metavar="[JOB]", help="Also probe this job's own shapes.")
    ] = None,
    override: Overrides = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            help="Kind of device; default: of the job's first island, or cpu.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Compute threads; default: of that island, or 1.", show_default=False
        ),
    ] = None,
    probes: Annotated[
        bool, typer.Option("--probes", help="Also each probe's hash, and the environment.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs, and for --against.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with what --json printed.", show_default=False),
    ] = None,
) -> None:
    """Hash the bits of fixed computations: equal classes mean equal arithmetic.

    They run as in a worker: always measured anew, in a process with a worker's environment. Exit
    status: 0 measured, with --against equal; 1 different; 2 bad input, or no such device.

    Example: dougong fingerprint --json > here.json, and there: dougong fingerprint --against
    here.json
    """
    job = load_whole_job(file, override or []).job if file is not None else None
    other = _read(against) if against is not None else None
    kind, num_threads = _device_of(job, accelerator, threads)
    found = measure_apart(Probing(kind, job=job), num_threads)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    elif other is None:
        lines = fingerprint_lines(found) if probes else [class_line(found, kind, num_threads)]
        typer.echo("\n".join(lines))
    if other is not None:
        typer.echo("\n".join(comparison_lines(other, found, str(against))), err=as_json)
        if other.kernel_class != found.kernel_class:
            raise typer.Exit(1)


def class_line(found: Fingerprint, kind: str, num_threads: int) -> str:
    """A fingerprint in one line."""
    facts = [kind, plural(num_threads, "thread"), plural(len(found.probes), "probe")]
    if found.unstable:
        facts.append(f"two answers of {', '.join(found.unstable)}")
    return f"class {found.kernel_class} ({', '.join(facts)}; --probes shows each of them)"


def fingerprint_lines(found: Fingerprint) -> Iterator[str]:
    """A fingerprint for people."""
    width = max(map(len, [*found.probes, *found.environment]))
    yield f"class {found.kernel_class}"
    for name, value in found.probes.items():
        yield f"  {name:<{width}}  {value}"
    yield "environment"
    for name, value in sorted(found.environment.items()):
        yield f"  {name:<{width}}  {value}"


def comparison_lines(other: Fingerprint, found: Fingerprint, name: str) -> Iterator[str]:
    """How `other`, read from the file `name`, differs from what was found here."""
    if other.kernel_class == found.kernel_class:
        yield f"equal: class {found.kernel_class}, {len(found.probes)} probes"
        return
    classes = f"class {other.kernel_class} in {name}, {found.kernel_class} here"
    yield f"different: {classes} ({name} | here)"
    if other.question != found.question:
        yield "  the two did not run the same probes: use the same dougong and the same job file"
    yield from difference(other, found)


def _device_of(job: Job | None, accelerator: str | None, threads: int | None) -> tuple[str, int]:
    """(kind of device, compute threads): as asked for, else of the job's first island of that
    kind."""
    if job is None:
        return accelerator or "cpu", threads or 1
    alike = [island for island in job.islands if island.accelerator == accelerator]
    island = alike[0] if alike else job.islands[0]
    return accelerator or island.accelerator, threads or island.threads


def _read(path: Path) -> Fingerprint:
    try:
        return Fingerprint.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PlaceError(
            f"--against {path}: {_why(error)}; give a file that `dougong fingerprint --json` has "
            "written"
        ) from error


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"is not JSON ({error})"
    return str(error)
