"""`dougong start`: run or resume, by what lies in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.options import Address, AllowOpenCluster, JobFile, NoRay, Overrides, TakeOver, Wait
from dougong.cli.run import launch_options
from dougong.job.load import KEPT, load_job
from dougong.launcher.start import goes_on
from dougong.launcher.supervised import go_on_beside, run_beside
from dougong.records.directory import RunDir
from dougong.tools.job_check import load_whole_job
from dougong.ui.history import closing_words


def start(
    file: JobFile,
    run_dir: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The run's directory; a new one, or that of this job."),
    ],
    override: Overrides = None,
    take_over: TakeOver = False,
    address: Address = None,
    allow_open_cluster: AllowOpenCluster = False,
    no_ray: NoRay = False,
    wait: Wait = None,
) -> None:
    """Begin a run, or go on with it: for schedulers, which type the same line again.

    A new directory, or one whose run has committed nothing: as `run`. Else as `resume`, with the
    job file as it is now; it may change what a resume may. A run that is finished stays as it is,
    with exit status 0.

    Exit status: 0 finished, 1 failed, 2 a wrong job, 3 the run is alive elsewhere, 143 stopped by
    SIGTERM, 129 by SIGHUP, 130 by Ctrl-C or `dougong stop`.

    Example: dougong start job.yaml --run-dir /shared/runs/first --address auto
    """
    overrides = override or []
    if not goes_on(run_dir):
        resolved = load_whole_job(file, overrides)
        options = launch_options(address, no_ray, run_dir, wait, may_be_open=allow_open_cluster)
        typer.echo(f"run directory: {run_dir}")
        raise typer.Exit(run_beside(resolved, run_dir, options, take_over))
    resolved = load_job(file, overrides, kept=KEPT)
    options = launch_options(address, no_ray, run_dir, wait, True, allow_open_cluster)

    def say_done() -> None:
        typer.echo(closing_words(RunDir.open(run_dir)))

    raise typer.Exit(go_on_beside(resolved, run_dir, options, take_over, say_done))
