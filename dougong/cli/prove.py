"""`dougong prove`: the promise, tried on a job of the user's own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from dougong.job.schema import Job
    from dougong.tools.layouts import Layout
    from dougong.tools.prove import Tried


def prove(
    file: Annotated[Path, typer.Argument(metavar="JOB", help="The job file.")],
    num_layouts: Annotated[int, typer.Option("--layouts", min=2, help="How many layouts.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps on each.")] = 4,
    override: Annotated[
        list[str] | None,
        typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change a key of the job file."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for each run.")] = 600.0,
) -> None:
    """Run a job for a few steps on several layouts of this machine and show that they compute the
    same bits.

    When two differ, it names the step, the tensor, the lane, the micro-batch, the layer and the
    segment. Exit status: 0 equal, 1 different. Example: dougong prove examples/quickstart.yaml
    --layouts 3 --steps 2
    """
    from dougong.job.load import load_job
    from dougong.tools.prove import shortened

    job = shortened(load_job(file, override or []).job, steps)
    raise typer.Exit(_prove(job, _choose(job, num_layouts), timeout))


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(prove)


def _choose(job: Job, count: int) -> Sequence[Layout]:
    from dougong.accelerators.registry import get_accelerator
    from dougong.errors import PlanError
    from dougong.launcher.agent.facts import count_devices
    from dougong.tools.layouts import layouts
    from dougong.training.preflight import inspect_only

    devices = count_devices(get_accelerator(job.islands[0].accelerator))
    found = layouts(job, inspect_only(job).num_experts, count, devices)
    if len(found) < 2:
        raise PlanError(
            f"{job.job}: {job.batch.lanes} lanes and {devices or 'any number of'} devices allow one layout alone; "
            "raise batch.lanes, or prove it where there are more devices"
        )
    return found


def _prove(job: Job, several: Sequence[Layout], timeout_s: float) -> int:
    """Run, show the table, say the result; returns the exit status. What is left of a failure is
    kept, and told."""
    from rich.console import Console

    from dougong.errors import DougongError
    from dougong.tools.local_run import LocalRunOptions
    from dougong.tools.prove import explain, try_all

    console, bench = Console(highlight=False), LocalRunOptions(timeout_s=timeout_s)
    folder = Path(tempfile.mkdtemp(prefix="dougong-prove-"))
    tried: list[Tried] = []
    try:
        with console.status("") as status:
            runs = try_all(job, several, folder, bench)
            for layout in several:
                status.update(f"{len(tried) + 1} of {len(several)}: {layout.name}")
                tried.append(next(runs))
            status.update("tracing the first difference")
            different = explain(tried, bench)
    except DougongError:
        typer.echo(f"kept: {folder}", err=True)
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    console.print(_table(tried))
    if different:
        typer.echo("\n".join([*different, f"kept: {folder}"]))
        return 1
    shutil.rmtree(folder)
    typer.echo(f"equal: the same bits on {len(tried)} layouts")
    return 0


def _table(tried: Sequence[Tried]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table("layout", "workers", "loss", "ledger", "equal?", box=box.SIMPLE)
    for one in tried:
        last = one.rows[-1]
        verdict = "yes" if one.split is None else f"[bold red]no, from step {one.split}[/]"
        table.add_row(
            one.layout.name, one.layout.workers, repr(last["loss"]), last["ledger"][:16], verdict
        )
    return table
