"""`dougong run`, `resume`, `status`, `logs`, `stop`, `plan`: starting a run and looking after
it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dougong.job.schema import Island
    from dougong.launcher.run import Options
    from dougong.parallel.plan import Plan
    from dougong.records.status import RunStatus

JobFile = Annotated[Path, typer.Argument(metavar="FILE", help="The job file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run's directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Change a key of the job file."),
]
Address = Annotated[
    str | None,
    typer.Option(help="Join this Ray cluster (HOST:PORT, or `auto`) instead of starting Ray here."),
]
NoRay = Annotated[
    bool,
    typer.Option(
        "--no-ray", help="Run on this machine without Ray, by the same agents and workers."
    ),
]


def run(
    file: JobFile,
    override: Overrides = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="A new directory; default runs/<job>-<time>.", show_default=False
        ),
    ] = None,
    address: Address = None,
    no_ray: NoRay = False,
) -> None:
    """Train a job, through failures, to its end.

    Ctrl-C once: finish the step, write a checkpoint, exit 130. Twice: stop at once. Exit status: 0
    finished, 1 failed, 2 a wrong job, 130 or 143 stopped. Example: dougong run
    examples/quickstart.yaml
    """
    from dougong.job.load import load_job

    resolved = load_job(file, override or [])
    options = options_of(address, no_ray)
    from dougong.launcher.run import start_run

    path = run_dir or new_path(resolved.job.job)
    typer.echo(f"run directory: {path}")
    raise typer.Exit(start_run(resolved, path, options))


def resume(
    run_dir: RunPath, override: Overrides = None, address: Address = None, no_ray: NoRay = False
) -> None:
    """Go on with a run that has stopped, failed or was lost, from its newest valid checkpoint.

    -o may change where it runs (islands, offload, pipeline, checkpoint, fault, drill), how far
    (steps) and whether other kernels may go on (numerics), nothing else that it computes with.
    Example: dougong resume runs/quickstart-20260101-120000 -o islands.east.workers=3
    """
    from dougong.launcher.run import resume_run

    raise typer.Exit(resume_run(run_dir, override or [], options_of(address, no_ray)))


def status(
    run_dir: RunPath, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Say where a run stands, alive or ended.

    Example: dougong status --json runs/quickstart-20260101-120000
    """
    from dougong.launcher.client import read_status
    from dougong.records.directory import RunDir

    found = read_status(RunDir.open(run_dir))
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(status_lines(found)))


def logs(
    run_dir: RunPath,
    worker: Annotated[
        str | None, typer.Argument(metavar="[WORKER]", help="One worker, such as east/1.")
    ] = None,
    generation: Annotated[
        int | None, typer.Option("--generation", "-g", help="Default: the newest.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Print what workers have printed.

    Example: dougong logs -f runs/quickstart-20260101-120000 east/1
    """
    from dougong.errors import LaunchError
    from dougong.launcher.client import LogReader
    from dougong.launcher.client import follow as follow_logs
    from dougong.records.directory import RunDir

    opened = RunDir.open(run_dir)
    known = sorted({name for _, name in opened.log_files()})
    if worker is not None and worker not in known:
        raise LaunchError(
            f"{run_dir}: no log of a worker {worker!r}; there are logs of {', '.join(known) or 'nobody'}"
        )
    reader = LogReader(opened, worker, generation)

    def write(name: str, line: str) -> None:
        typer.echo(line if worker else f"{name} | {line}")

    if follow:
        follow_logs(reader, write)
        return
    for name, line in reader.next_lines(last=True):
        write(name, line)


def stop(
    run_dir: RunPath,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the step and its checkpoint.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the end.")] = 600.0,
) -> None:
    """Stop a run: it finishes the step and writes a checkpoint, then ends.

    Example: dougong stop runs/quickstart-20260101-120000
    """
    from dougong.launcher.client import stop as stop_run
    from dougong.records.directory import RunDir

    final = stop_run(RunDir.open(run_dir), now, timeout)
    typer.echo(f"{final.state.lower()} at step {final.step} of {final.steps}")


def plan(file: JobFile, override: Overrides = None) -> None:
    """Show who would run which lanes and experts, and a step as a chart, without touching a device.

    Example: dougong plan examples/quickstart.yaml -o islands.east.workers=4
    """
    from dougong.job.load import load_job

    job = load_job(file, override or []).job
    from dougong.planner.placement import seats_of_job
    from dougong.planner.plan_job import expert_bytes, plan_job, state_bytes
    from dougong.tools.plan_chart import chart_lines, fits
    from dougong.training.preflight import inspect_only
    from dougong.ui.formatting import size

    inventory = inspect_only(job)
    made = plan_job(job, inventory, seats_of_job(job.islands))
    typer.echo(
        f"{inventory.family}: {inventory.num_parameters:,} parameters, {len(inventory.sites)} expert layers"
    )
    typer.echo("\n".join(plan_lines(made, state_bytes(job, inventory, made))))
    typer.echo(
        f"an expert takes {size(expert_bytes(job, inventory))} on its worker; activations come on top"
    )
    typer.echo("\n".join(environment_lines(job.islands, job.is_deterministic)))
    if fits(made, job):
        typer.echo(
            "\n".join(
                chart_lines(job, made, inventory, min(shutil.get_terminal_size().columns, 120))
            )
        )


def status_lines(status: RunStatus) -> list[str]:
    """A run's status for people."""
    from dougong.ui.formatting import ranges, site_experts

    where = f"{status.state.lower()}, step {status.step} of {status.steps}"
    head = f"{status.job}: {where}, generation {status.generation}"
    if not status.workers:
        return [head]
    rows = [("worker", "host", "pid", "device", "role", "lanes", "experts", "now")]
    for w in status.workers:
        doing = f"{w.phase} of step {w.step}" if w.alive else "ended"
        place = (w.name, w.host, str(w.pid or "-"), w.device, w.role)
        rows.append((*place, ranges(w.lanes) or "-", site_experts(w.experts) or "-", doing))
    return [head, *_table(rows)]


def plan_lines(made: Plan, memory: Sequence[int]) -> list[str]:
    """A plan as a table: lanes, experts, how many dense tensors each worker owns, and its bytes of
    `memory`."""
    from dougong.ui.formatting import ranges, site_experts, size

    owned = [sum(1 for rank in made.owners.values() if rank == w.rank) for w in made.workers]
    rows = [("worker", "role", "device", "lanes", "experts", "dense tensors owned", "state")]
    for w, count, state in zip(made.workers, owned, memory, strict=True):
        ids = (ranges(w.lanes) or "-", site_experts(w.experts) or "-")
        rows.append((w.name, w.role, w.device, *ids, str(count), size(state)))
    return _table(rows)


def environment_lines(islands: Sequence[Island], deterministic: bool) -> list[str]:
    """What each island's workers find in their environment on a machine like this one; the shell's
    is left alone."""
    from dougong.accelerators.registry import get_accelerator

    variables = {
        i.name: get_accelerator(i.accelerator).worker_environment(i.threads, deterministic)
        for i in islands
    }
    return [
        f"{name}: workers run with {' '.join(f'{key}={value}' for key, value in sorted(found.items()))}"
        for name, found in variables.items()
    ]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (run, resume, status, logs, stop, plan):
        app.command()(command)


def new_path(name: str) -> Path:
    """Where a run of this name goes when nobody says where."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def options_of(address: str | None, no_ray: bool) -> Options:
    """How to run, from the command line's two options. Raises LaunchError when both are given."""
    from dougong.errors import LaunchError
    from dougong.launcher.run import Options

    if address is not None and no_ray:
        raise LaunchError(
            "--address and --no-ray: a cluster is reached through Ray; leave one of them out"
        )
    return Options(address, not no_ray)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
