"""Arguments and options that several commands share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dougong.deadlines import DEADLINES, MOST_S

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
        "Ray here. Default: what RAY_ADDRESS names, else where a run that goes on was, else "
        "`local`."
    ),
]
AllowOpenCluster = Annotated[
    bool,
    typer.Option(
        "--allow-open-cluster",
        help="Do not warn of a Ray cluster that asks nobody for a token.",
    ),
]
NoRay = Annotated[
    bool,
    typer.Option(
        "--no-ray", help="Run on this machine without Ray, by the same agents and workers."
    ),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        min=0,
        max=MOST_S,
        metavar="SECONDS",
        help="How long to wait for devices that other jobs hold, and for nodes that have yet to "
        f"join; 0: not at all. Default: {DEADLINES.room_s:g} for the former, "
        f"{DEADLINES.nodes_join_s:g} for the latter.",
        show_default=False,
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="The controller on another machine is dead: do not wait for its lease to run out.",
    ),
]


def new_run_path(name: str) -> Path:
    """Where a run of this name goes when no directory is given."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
