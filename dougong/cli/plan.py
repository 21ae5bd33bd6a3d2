"""`dougong plan`: what a job would run where."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence

import typer
from rich.table import Table

from dougong.accelerators.registry import get_accelerator
from dougong.cli.options import JobFile, Overrides
from dougong.cli.tables import plain_table, print_table
from dougong.job.load import placed
from dougong.job.schema import Job
from dougong.launcher.agent.facts import absent_devices
from dougong.parallel.plan import Plan
from dougong.planner.placement import seats_of_job
from dougong.planner.plan_job import expert_bytes, plan_job, state_bytes
from dougong.remarks import Remarks
from dougong.tools.job_check import load_whole_job
from dougong.tools.plan_chart import chart_lines, fits
from dougong.ui.formatting import ranges, site_experts, size

MOST_COLUMNS = 120


def plan(file: JobFile, override: Overrides = None) -> None:
    """Show who would run which lanes and experts, and a step as a chart; use no device.

    Example: dougong plan examples/quickstart.yaml -o islands.east.workers=4
    """
    from dougong.training.preflight import inspect_only, preview

    resolved = load_whole_job(file, override or [])
    job = resolved.job
    with placed(resolved):
        model = inspect_only(job)
        data, told = preview(job, model)
    made = plan_job(job, model, seats_of_job(job.islands))
    num_parameters = f"{model.num_parameters:,} parameters"
    typer.echo(f"{model.family}: {num_parameters}, {len(model.sites)} expert layers")
    print_table(plan_table(made, state_bytes(job, model, made)))
    expert = size(expert_bytes(job, model))
    typer.echo(f"an expert takes {expert} on its worker; activations come on top")
    for line in (*environment_lines(job), f"data: {data}", *remark_lines(told)):
        typer.echo(line)
    for line in remark_lines(absent_devices(job.islands)):
        typer.echo(line)
    if fits(made, job):
        width = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
        typer.echo("\n".join(chart_lines(job, made, model, width)))


def plan_table(made: Plan, state_bytes: Sequence[int]) -> Table:
    """One row for each worker: lanes, experts, how many dense tensors it owns, and its
    `state_bytes`."""
    num_owned = Counter(made.owners.values())
    table = plain_table(
        "worker", "role", "device", "lanes", "experts", "dense tensors owned", "state"
    )
    for worker, num_bytes in zip(made.workers, state_bytes, strict=True):
        table.add_row(
            worker.name,
            worker.role,
            worker.device,
            ranges(worker.lanes) or "-",
            site_experts(worker.experts) or "-",
            str(num_owned[worker.rank]),
            size(num_bytes),
        )
    return table


def remark_lines(told: Remarks) -> Iterator[str]:
    """What a run would tell once at its start, warnings last."""
    yield from (f"note: {text}" for text in told.notes)
    yield from (f"warning: {text}" for text in told.warnings)


def environment_lines(job: Job) -> Iterator[str]:
    """What each island's workers find in their environment on a machine like this one; the shell's
    is left alone."""
    for island in job.islands:
        accelerator = get_accelerator(island.accelerator)
        found = accelerator.worker_environment(island.threads, job.is_deterministic)
        words = [f"{key}={value}" for key, value in sorted(found.items())]
        yield f"{island.name}: workers run with {' '.join(words)}"
