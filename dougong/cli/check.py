"""`dougong check` and `dougong schema`: what can be said about a job file without starting
anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

CHECK_HELP = """Check a job file and say every mistake at once, with its line. Starts nothing.

Exit status 0: the file is good; 2: it is not.

Example:  [bold]dougong check job.yaml -o batch.lanes=8 --print[/bold]
"""

SCHEMA_HELP = """Print the job file's JSON Schema, for editors that complete and check YAML.

Example:  [bold]dougong schema > job.schema.json[/bold]
"""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("check", help=CHECK_HELP)(check)
    app.command("schema", help=SCHEMA_HELP)(schema)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the job file")],
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--override",
            "-o",
            metavar="KEY=VALUE",
            help="lay a value over the file's; may be repeated",
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--print", help="print the job in full, with the origin of each value")
    ] = False,
) -> None:
    """Read the file as `dougong run` would, and stop there."""
    from dougong.job.load import load_job

    resolved = load_job(file, override or [])
    if show:
        sys.stdout.write(resolved.to_yaml(comments=True))
    else:
        print(f"{file}: good: {resolved.summary()}")


def schema() -> None:
    """Print the schema."""
    from dougong.job.reference import json_schema

    sys.stdout.write(json_schema())
