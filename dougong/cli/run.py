"""`dougong run` and `resume`: training a job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.doctor.command import refuse_unsound
from dougong.cli.options import (
    Address,
    AllowOpenCluster,
    JobFile,
    NoRay,
    Overrides,
    RunPath,
    TakeOver,
    Wait,
    new_run_path,
)
from dougong.errors import PlaceError
from dougong.launcher.backends.ray_choice import choose_ray, surroundings
from dougong.launcher.run import Options, ResumeRequest
from dougong.launcher.start import address_before, ran_without_ray
from dougong.launcher.supervised import resume_beside, run_beside
from dougong.tools.job_check import load_whole_job


def run(
    file: JobFile,
    override: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A new directory, or one whose run has no checkpoint; default runs/<job>-<time>.",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    allow_open_cluster: AllowOpenCluster = False,
    no_ray: NoRay = False,
    wait: Wait = None,
    doctor: Annotated[
        bool,
        typer.Option(
            "--doctor",
            help="First the quick half of `dougong doctor`; begin only where it is sound.",
        ),
    ] = False,
) -> None:
    """Train a job, through failures, to its end.

    Ctrl-C once: finish the step, write a checkpoint, exit 130. Twice: stop at once.

    Exit status: 0 finished, 1 failed, 2 a wrong job or command, 3 the run is alive, 130 stopped by
    Ctrl-C or `dougong stop`, 143 by SIGTERM, 129 by SIGHUP.

    Example: dougong run examples/quickstart.yaml
    """
    resolved = load_whole_job(file, override or [])
    path = run_dir or new_run_path(resolved.job.job)
    options = launch_options(address, no_ray, path, wait, may_be_open=allow_open_cluster)
    if doctor:
        refuse_unsound(resolved.job, options.choice, path)
    typer.echo(f"run directory: {path}")
    raise typer.Exit(run_beside(resolved, path, options))


def resume(
    run_dir: RunPath,
    override: Overrides = None,
    step: Annotated[
        int | None,
        typer.Option(
            min=1, help="Go on from this step's checkpoint; later ones are set aside, not deleted."
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Begin anew; checkpoints are set aside, not deleted."),
    ] = False,
    take_over: TakeOver = False,
    address: Address = None,
    allow_open_cluster: AllowOpenCluster = False,
    no_ray: NoRay = False,
    wait: Wait = None,
) -> None:
    """Go on with a run that has stopped, failed or was lost, from its newest valid checkpoint.

    -o may change where it runs (islands, offload, pipeline, checkpoint, fault, drill), how far
    (steps) and whether other kernels may go on (numerics), nothing else that it computes with.

    Exit status: 0 finished, 1 failed, 2 a wrong command or record, 3 the run is alive, 130 stopped
    by Ctrl-C or `dougong stop`, 143 by SIGTERM, 129 by SIGHUP.

    Example: dougong resume runs/quickstart-20260101-120000 -o islands.east.workers=3
    """
    if step is not None and from_scratch:
        raise PlaceError("--step and --from-scratch: two beginnings; leave one of them out")
    request = ResumeRequest(step, from_scratch, take_over)
    options = launch_options(address, no_ray, run_dir, wait, True, allow_open_cluster)
    raise typer.Exit(resume_beside(run_dir, override or [], options, request))


def launch_options(
    address: str | None,
    no_ray: bool,
    run_dir: Path,
    wait_s: float | None = None,
    goes_on: bool = False,
    may_be_open: bool = False,
) -> Options:
    """How to run, from the command line's options. PlaceError when they contradict each other, and
    when no Ray can be where they say; `run_dir` is for its advice, `goes_on`: a run is there;
    `may_be_open`: a cluster without a token is not warned of."""
    if address is not None and no_ray:
        raise PlaceError(
            "--address and --no-ray: a cluster is reached through Ray; leave one of them out"
        )
    if wait_s is not None and no_ray:
        raise PlaceError(
            "--wait and --no-ray: on one machine nobody else is waited for; leave one of them out"
        )
    if no_ray:
        return Options(ray=False)
    before = address_before(run_dir) if goes_on else ""
    choice = choose_ray(address, surroundings(run_dir, before))
    choice = dataclasses.replace(choice, may_be_open=may_be_open)
    if goes_on and choice.address is None and ran_without_ray(run_dir):
        note = "the run had no Ray (--no-ray) and has one now; its bits do not depend on that"
        choice = dataclasses.replace(choice, note="; ".join(filter(None, (choice.note, note))))
    return Options(choice, wait_s=wait_s)
