"""`dougong status`, `logs` and `stop`: a run seen from another terminal."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from dougong.cli.options import RunPath
from dougong.cli.tables import plain_table, print_table
from dougong.deadlines import DEADLINES
from dougong.errors import LaunchError
from dougong.launcher.client import LogReader, follow, read_status
from dougong.launcher.client import stop as stop_run
from dougong.records.directory import RunDir
from dougong.records.status import RunStatus
from dougong.ui.formatting import ranges, site_experts


def status(
    run_dir: RunPath, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Say where a run stands, alive or ended.

    Example: dougong status --json runs/quickstart-20260101-120000
    """
    found = read_status(RunDir.open(run_dir))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
        return
    typer.echo(headline(found))
    if found.workers:
        print_table(workers_table(found))


def logs(
    run_dir: RunPath,
    worker: Annotated[
        str | None, typer.Argument(metavar="[WORKER]", help="One worker, such as east/1.")
    ] = None,
    generation: Annotated[
        int | None, typer.Option("--generation", "-g", help="Default: the newest.")
    ] = None,
    follow_run: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Print what workers have printed.

    Example: dougong logs -f runs/quickstart-20260101-120000 east/1
    """
    run = RunDir.open(run_dir)
    known = sorted({name for _, name in run.log_files()})
    if worker is not None and worker not in known:
        names = ", ".join(known) or "nobody"
        raise LaunchError(f"{run_dir}: no log of a worker {worker!r}; there are logs of {names}")
    reader = LogReader(run, worker, generation)

    def write(name: str, line: str) -> None:
        typer.echo(line if worker else f"{name} | {line}")

    if follow_run:
        follow(reader, write)
        return
    for name, line in reader.next_lines(last=True):
        write(name, line)


def stop(
    run_dir: RunPath,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for the step and its checkpoint.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for the end.")
    ] = DEADLINES.stop_wait_s,
) -> None:
    """Stop a run: it finishes the step and writes a checkpoint, then ends.

    Example: dougong stop runs/quickstart-20260101-120000
    """
    final = stop_run(RunDir.open(run_dir), now, timeout)
    typer.echo(f"{final.state.lower()} at step {final.step} of {final.steps}")


def headline(status: RunStatus) -> str:
    """A run's status in one line."""
    progress = f"{status.state.lower()}, step {status.step} of {status.steps}"
    return f"{status.job}: {progress}, generation {status.generation}"


def workers_table(status: RunStatus) -> Table:
    """One row for each worker of a run's status."""
    table = plain_table("worker", "host", "pid", "device", "role", "lanes", "experts", "now")
    for worker in status.workers:
        table.add_row(
            worker.name,
            worker.host,
            str(worker.pid or "-"),
            worker.device,
            worker.role,
            ranges(worker.lanes) or "-",
            site_experts(worker.experts) or "-",
            f"{worker.phase} of step {worker.step}" if worker.alive else "ended",
        )
    return table
