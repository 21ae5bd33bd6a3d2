"""`dougong fingerprint`: which bits this machine's kernels give, and whether another machine's are
the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dougong.fingerprint.record import Fingerprint
    from dougong.job.schema import Job


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(fingerprint)


def fingerprint(
    file: Annotated[
        Path | None, typer.Argument(metavar="[JOB]", help="Also probe this job's own shapes.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change a key of the job file."),
    ] = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs, and for --against.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with what --json printed.", show_default=False),
    ] = None,
) -> None:
    """Run fixed computations as a worker would and hash the bits that come out: equal classes,
    equal arithmetic.

    Always measured anew, in a process with a worker's environment. Exit status with --against: 0
    equal, 1 different. Example: dougong fingerprint --json > here.json, and there: dougong
    fingerprint --against here.json
    """
    from dougong.fingerprint.cache import Probing
    from dougong.job.load import load_job
    from dougong.tools.fingerprint_apart import measure_apart

    job = load_job(file, override or []).job if file is not None else None
    other = _read(against) if against is not None else None
    kind, count = _of_island(job, accelerator, threads)
    found = measure_apart(Probing(kind, job=job), count)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    elif other is None:
        typer.echo("\n".join(lines_of(found)))
    if other is not None:
        lines = _comparison(other, found, str(against))
        typer.echo("\n".join(lines), err=as_json)
        if other.kernel_class != found.kernel_class:
            raise typer.Exit(1)


def lines_of(found: Fingerprint) -> list[str]:
    """A fingerprint for people."""
    width = max(map(len, [*found.probes, *found.environment]))
    return [
        f"class {found.kernel_class}",
        *(f"  {name:<{width}}  {value}" for name, value in found.probes.items()),
        "environment",
        *(f"  {name:<{width}}  {value}" for name, value in sorted(found.environment.items())),
    ]


def _of_island(job: Job | None, accelerator: str | None, threads: int | None) -> tuple[str, int]:
    if job is None:
        return accelerator or "cpu", threads or 1
    island = next((i for i in job.islands if accelerator in (None, i.accelerator)), job.islands[0])
    return accelerator or island.accelerator, threads or island.threads


def _read(path: Path) -> Fingerprint:
    from dougong.errors import LaunchError
    from dougong.fingerprint.record import Fingerprint

    try:
        return Fingerprint.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise LaunchError(
            f"{path}: {error}; give a file that `dougong fingerprint --json` has written"
        ) from error


def _comparison(other: Fingerprint, found: Fingerprint, name: str) -> list[str]:
    from dougong.fingerprint.judge import difference

    if other.kernel_class == found.kernel_class:
        return [f"equal: class {found.kernel_class}, {len(found.probes)} probes"]
    lines = [
        f"different: class {other.kernel_class} in {name}, {found.kernel_class} here ({name} | here)"
    ]
    if other.question != found.question:
        lines.append(
            "  the two did not run the same probes: use the same dougong and the same job file"
        )
    return [*lines, *difference(other, found)]
