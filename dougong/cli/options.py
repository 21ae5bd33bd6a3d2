"""Arguments and options that several commands share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run's directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change a key of the job file."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Join this Ray cluster (HOST:PORT, or `auto`: that of this machine); `local`: start "
        "Ray here. Default: what RAY_ADDRESS names, else `local`."
    ),
]
NoRay = Annotated[
    bool,
    typer.Option(
        "--no-ray", help="Run on this machine without Ray, by the same agents and workers."
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="The controller on another machine, which cannot be reached, is dead.",
    ),
]


def new_run_path(name: str) -> Path:
    """Where a run of this name goes when no directory is given."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
