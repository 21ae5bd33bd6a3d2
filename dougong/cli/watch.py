"""`dougong status`, `logs` and `stop`: a run seen from another terminal."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Annotated

import typer
from rich.table import Table

from dougong.checkpoint.directories import list_committed
from dougong.cli.options import RunPath
from dougong.cli.tables import plain_table, print_table
from dougong.deadlines import DEADLINES, Deadlines
from dougong.errors import PlaceError, RecordError
from dougong.launcher.beside import silence_words, stopped_command, what_follows
from dougong.launcher.client import LogReader, follow, look_at
from dougong.launcher.client import stop as stop_run
from dougong.launcher.presence import Presence
from dougong.records.damage import rows_note
from dougong.records.directory import RunDir
from dougong.records.events import Event
from dougong.records.jsonl import encode
from dougong.records.rebuilt_status import known_status
from dougong.records.status import RunStatus, WorkerState
from dougong.ui.account import with_account
from dougong.ui.formatting import ranges, site_experts, worker_list
from dougong.ui.next_step import GOES_ON, next_step, program
from dougong.ui.standing import Standing, find_standing
from dougong.ui.stop_words import how_it_stopped


def status(
    run_dir: RunPath, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """Say where a run stands, alive or ended.

    Example: dougong status --json runs/quickstart-20260101-120000
    """
    run = RunDir.open(run_dir)
    found = standing_of(run)
    if found.note:
        typer.echo(f"note: {found.note}", err=True)
    if as_json:
        typer.echo(json.dumps(encode(found.to_json()), indent=1))
        return
    typer.echo("\n".join(found.lines()))
    if found.status.workers:
        print_table(workers_table(found.status))
    typer.echo(f"next: {found.next_command}")


def standing_of(run: RunDir, deadlines: Deadlines = DEADLINES) -> Standing:
    """Where a run stands now."""
    # The record is read after the status, so that it has come at least as far.
    status, presence = look_at(run, deadlines)
    faults: list[RecordError] = []
    if presence is None or status.goodput is None:
        status = with_account(run, status, faults.append)
    events, rows = run.read_events(), run.read_last_metrics(faults.append)
    present = {place.path.name for place in list_committed(run.checkpoints)}
    command = _next_command(run, status, events)
    now = datetime.now(timezone.utc)
    found = find_standing(status, rows, events, present, command, now)
    found = dataclasses.replace(found, note=_damage(run, bool(faults)))
    return _as_led(run, found, presence, events, deadlines)


def _as_led(
    run: RunDir,
    found: Standing,
    presence: Presence | None,
    events: Sequence[Event],
    deadlines: Deadlines,
) -> Standing:
    """With what there is to say of the controller."""
    known = run.read_controller()
    if presence is Presence.ALIVE:
        return dataclasses.replace(found, remark=stopped_command(known) or found.remark)
    if presence is not Presence.SILENT:
        is_lost = found.status.state == "LOST"
        remark = stopped_command(known, is_dead=True) if is_lost else ""
        return dataclasses.replace(found, remark=remark or found.remark)
    resume = f"{program(events)} resume {_quoted(run)}"
    return dataclasses.replace(
        found,
        eta_s=None,
        remark=silence_words(known),
        next_command=what_follows(known, resume, deadlines),
    )


def _damage(run: RunDir, has_faults: bool) -> str:
    """What of the record is damaged, and told without it; empty for nothing. A long file is read
    whole only where a row of it is."""
    _, note = known_status(run)
    faults: list[RecordError] = []
    if has_faults:
        for _ in run.stream_metrics(faults.append):
            pass
    return "; ".join(text for text in (note, rows_note(faults)) if text)


def _next_command(run: RunDir, status: RunStatus, events: Sequence[Event]) -> str:
    """What is worth typing when one has just seen where the run stands: not the same again."""
    state = status.state.lower()
    following = str(next_step(run.path, state, events))
    if state not in GOES_ON or following != f"{program(events)} status {_quoted(run)}":
        return following
    # A second `stop` asks for nothing new, and waits for the end.
    words = "stop" if state == "stopping" else "logs --follow"
    return f"{program(events)} {words} {_quoted(run)}"


def _quoted(run: RunDir) -> str:
    return shlex.quote(str(run.path))


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

    Workers of a healthy run print little. Generation 0 is that of looks and probes before a start.

    Example: dougong logs -f runs/quickstart-20260101-120000 east/1
    """
    run = RunDir.open(run_dir)
    _refuse_unknown_logs(run, worker, generation)
    reader = LogReader(run, worker, generation)

    def write(name: str, line: str) -> None:
        typer.echo(line if worker else f"{name} | {line}")

    if follow_run:
        follow(reader, write)
    else:
        for name, line in reader.next_lines(last=True):
            write(name, line)
    silence = no_lines_words(reader)
    if silence:
        typer.echo(silence, err=True)  # it is no line of a log


def _refuse_unknown_logs(run: RunDir, worker: str | None, generation: int | None) -> None:
    """PlaceError where there is no such worker or generation; it names those that there are."""
    logs = run.log_files()
    workers = sorted({name for _, name in logs})
    if worker is not None and worker not in workers:
        names = ", ".join(workers) or "nobody"
        raise PlaceError(f"{run.path}: no log of a worker {worker!r}; there are logs of {names}")
    known = sorted({number for number, name in logs if worker in (None, name)})
    if generation is not None and generation not in known:
        whose = f"of {worker} " if worker else ""
        raise PlaceError(
            f"{run.path}: no log {whose}in generation {generation}; there are logs {whose}of "
            f"{_generations(known)}"
        )


def _generations(numbers: Sequence[int]) -> str:
    if not numbers:
        return "no generation yet"
    return f"{'generation' if len(numbers) == 1 else 'generations'} {ranges(numbers)}"


def no_lines_words(reader: LogReader) -> str:
    """Who of those whose logs are read has printed nothing; empty where everybody has printed."""
    generation, files = reader.selection()
    if not files:
        path = reader.run_dir.path
        return f"no worker has begun; `dougong logs {path} -g 0` shows the looks before the start"
    silent = [worker for worker, path in files if path.stat().st_size == 0]
    if not silent:
        return ""
    have = "has" if len(silent) == 1 else "have"
    return f"{worker_list(silent)} {have} printed nothing in generation {generation}"


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

    A step that does not end, because workers stand still, is given up after a while
    (fault.deadlines.stop_step_s).

    Example: dougong stop runs/quickstart-20260101-120000
    """
    run = RunDir.open(run_dir)
    final = stop_run(run, now, timeout, tell=lambda text: typer.echo(text, err=True))
    typer.echo(how_it_stopped(final, run.read_events()))


def _now(worker: WorkerState) -> str:
    """What a worker is at, and how it is where that is more than running."""
    if not worker.alive:
        return "ended"
    at = f"{worker.phase} of step {worker.step}"
    told = () if worker.health in ("", "running") else (worker.health,)
    drill = (f"{worker.ordered} is ordered for its next step",) if worker.ordered else ()
    return ", ".join((at, *told, *drill))


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
            _now(worker),
        )
    return table
