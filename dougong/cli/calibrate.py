"""`dougong calibrate`: how fast unlike islands are, for the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.options import (
    Address,
    AllowOpenCluster,
    JobFile,
    NoRay,
    Overrides,
    Wait,
    new_run_path,
)
from dougong.cli.run import launch_options
from dougong.job.parts.rates import Rates
from dougong.tools.calibrate import calibrate as measure
from dougong.tools.job_check import load_whole_job


def calibrate(
    file: JobFile,
    override: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Default runs/<job>-calibrate-<time>.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(min=3, max=1000, help="Steps of each of the two runs; the first warms up."),
    ] = 6,
    address: Address = None,
    allow_open_cluster: AllowOpenCluster = False,
    no_ray: NoRay = False,
    wait: Wait = None,
) -> None:
    """Measure islands' speeds in two short runs, and print them for the job file.

    Each island runs one worker, which computes attention in one run and experts in the other; the
    model must fit so, or be made smaller with -o (model.config.num_hidden_layers=2): speeds are for
    one layer.

    Example: dougong calibrate examples/afd.yaml --no-ray
    """
    resolved = load_whole_job(file, override or [])
    path = run_dir or new_run_path(f"{resolved.job.job}-calibrate")
    options = launch_options(address, no_ray, path, wait, may_be_open=allow_open_cluster)
    typer.echo("\n".join(speed_lines(measure(resolved, path, options, steps))))


def speed_lines(speeds: Mapping[str, Rates]) -> Iterator[str]:
    """The speeds as YAML for the job file; for one run, `-o` takes the same words."""
    yield "# for the job file: add each `speed` to the island of that name"
    yield "islands:"
    for island, rates in speeds.items():
        speed = f"{{attention: {rates.attention:.4g}, experts: {rates.experts:.4g}}}"
        yield f"  - name: {island}"
        yield f"    speed: {speed}    # or, for one run: -o 'islands.{island}.speed={speed}'"
