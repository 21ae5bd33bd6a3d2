"""`dougong prove`: the promise, tried on a job of the user's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dougong.accelerators.registry import get_accelerator
from dougong.cli.options import JobFile, Overrides
from dougong.deadlines import DEADLINES
from dougong.errors import DougongError, PlanError
from dougong.job.schema import Job
from dougong.launcher.agent.facts import count_devices
from dougong.tools.job_check import load_whole_job
from dougong.tools.layouts import Layout, layouts
from dougong.tools.local_run import LocalRunOptions
from dougong.tools.prove import LayoutRun, explain, run_layouts, shortened


def prove(
    file: JobFile,
    num_layouts: Annotated[int, typer.Option("--layouts", min=2, help="How many layouts.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps on each.")] = 4,
    override: Overrides = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for each run.")
    ] = DEADLINES.local_run_s,
) -> None:
    """Run a job on several layouts of this machine and compare their bits.

    Every layout runs a few steps. When two differ, it names the step, the tensor, the lane, the
    micro-batch, the layer and the segment. Exit status: 0 equal, 1 different.

    Example: dougong prove examples/quickstart.yaml --layouts 3 --steps 2
    """
    job = shortened(load_whole_job(file, override or []).job, steps)
    chosen = _choose(job, num_layouts)
    folder = Path(tempfile.mkdtemp(prefix="dougong-prove-"))
    try:
        runs, different = _run_all(job, chosen, folder, LocalRunOptions(timeout_s=timeout))
    except DougongError:
        typer.echo(f"kept: {folder}", err=True)
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    Console(highlight=False).print(_table(runs))
    if different:
        typer.echo("\n".join([*different, f"kept: {folder}"]))
        raise typer.Exit(1)
    shutil.rmtree(folder)
    typer.echo(f"equal: the same bits on {len(runs)} layouts")


def _choose(job: Job, count: int) -> Sequence[Layout]:
    from dougong.training.start.preflight import inspect_only

    num_devices = count_devices(get_accelerator(job.islands[0].accelerator))
    found = layouts(job, inspect_only(job).num_experts, count, num_devices)
    if len(found) < 2:
        devices = "any number of" if num_devices is None else str(num_devices)
        raise PlanError(
            f"{job.job}: {job.batch.lanes} lanes and {devices} devices allow one layout alone; "
            "raise batch.lanes, or prove it where there are more devices"
        )
    return found


def _run_all(
    job: Job, chosen: Sequence[Layout], folder: Path, options: LocalRunOptions
) -> tuple[list[LayoutRun], list[str]]:
    """Every layout's run, and what differs first, in words; says meanwhile what is going on."""
    with Console(highlight=False).status("") as line:
        runs: list[LayoutRun] = []
        remaining = run_layouts(job, chosen, folder, options)
        for number, layout in enumerate(chosen, 1):
            line.update(f"{number} of {len(chosen)}: {layout.name}")
            runs.append(next(remaining))
        line.update("tracing the first difference")
        return runs, explain(runs, options)


def _table(runs: Sequence[LayoutRun]) -> Table:
    table = Table("layout", "workers", "loss", "ledger", "equal?", box=box.SIMPLE)
    for run in runs:
        verdict = "yes" if run.split is None else f"[bold red]no, from step {run.split}[/]"
        digest = run.last.digest or ""
        table.add_row(
            run.layout.name, run.layout.workers, repr(run.last.loss), digest[:16], verdict
        )
    return table
