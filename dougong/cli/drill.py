"""`dougong drill`: rehearse faults, on a run that allows it or on a small job of its own."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.tables import plain_table, print_table
from dougong.errors import JobError, PlaceError
from dougong.job.drills.vocabulary import FAULTS, has_worker
from dougong.records.directory import RunDir
from dougong.records.files import why_not_writable
from dougong.tools.drill.controls import Controls
from dougong.tools.drill.lines import Rehearsal
from dougong.tools.drill.on_run import RunDrills
from dougong.tools.drill.proof import Proof
from dougong.tools.drill.schedule import PlannedFault

Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN_DIR]",
        help="A run that is training and whose job file says `drill: allowed`. Without one: a "
        "small job on this machine, held against the same job undisturbed.",
        show_default=False,
    ),
]


Count = Annotated[
    int | None,
    typer.Option(min=1, help="How many schedules, or faults of a run. [default: 1]"),
]
Schedule = Annotated[
    int | None,
    typer.Option(min=1, help="Small job: this schedule of the seed alone, also once more."),
]
Control = Annotated[
    bool,
    typer.Option(
        "--control",
        help="Small job: make on purpose what a proof says is not there; each must be found.",
    ),
]
Folder = Annotated[
    Path,
    typer.Option(help="Where the small job's runs and lines go; goes on with what is there."),
]


def drill(
    run_dir: Run = None,
    seed: Annotated[int, typer.Option(min=0, help="What is drawn; the same seed, the same.")] = 0,
    count: Count = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would come.")] = False,
    fault: Annotated[
        str | None,
        typer.Option(
            help="This fault in place of drawn ones, with --on (but for the controller's)."
        ),
    ] = None,
    on: Annotated[str | None, typer.Option(metavar="WORKER", help="To whom, for --fault.")] = None,
    for_s: Annotated[
        float | None, typer.Option("--for", min=0.1, metavar="SECONDS", help="For --fault.")
    ] = None,
    folder: Folder = Path("runs/drill"),
    schedule: Schedule = None,
    control: Control = False,
    lab: Annotated[
        bool, typer.Option("--lab", help="Small job: draw what takes root and hosts, too.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Print the vocabulary of faults.")] = False,
) -> None:
    """Rehearse faults, on a run that allows it or on a small job of its own.

    Each is announced before it comes. On a run: draws faults that it survives, has the controller
    and its agents do them, and says of each what was named and when it trained again. On its own
    job: draws schedules, and holds final weights, optimizer and samples against the undisturbed
    run, bit by bit; one line of JSON for each, and the same command goes on where it was ended.
    Exit status: 0 all as it should be, 1 not.

    Example: dougong drill --seed 7 --count 3
    """
    if show:
        _print_table()
    elif run_dir is None:
        if fault is not None or on is not None:
            raise JobError("--fault is for a run: dougong drill RUN_DIR --fault stop --on east/1")
        if schedule is not None and count is not None:
            raise JobError(f"--schedule {schedule} is one schedule: leave --count {count} out")
        _on_small_job(SmallJob(folder, seed, count or 1, schedule, control, lab), dry_run)
    elif control or schedule is not None or lab:
        raise JobError("--control, --schedule and --lab are for the small job: leave RUN_DIR out")
    else:
        drills = _drills_of(run_dir, dry_run)
        drawn = list(drills.draw(seed, count or 1)) if fault is None and on is None else []
        _on_run(drills, drawn or [_asked_for(fault, on, for_s)], dry_run)


def _drills_of(run_dir: Path, dry_run: bool) -> RunDrills:
    """LaunchError where the run is over, unless it is only to be said what would come."""
    drills = RunDrills(RunDir.open(run_dir), tell=lambda text: typer.echo(f"  {text}"))
    if not dry_run:
        drills.refuse_if_over()
    return drills


def _asked_for(fault: str | None, on: str | None, for_s: float | None) -> PlannedFault:
    """JobError where it lacks its worker, or has none to take."""
    takes_worker = fault is not None and has_worker(fault)
    if fault is None or takes_worker != (on is not None):
        text = "--fault and --on go together: --fault stop --on east/1"
        raise JobError(text if fault is None or takes_worker else f"{fault} takes no --on")
    return PlannedFault(fault, on or "", after_s=0.0, for_s=for_s)


def _on_run(drills: RunDrills, planned: list[PlannedFault], dry_run: bool) -> None:
    num_wrong = 0
    for number, one in enumerate(planned, 1):
        typer.echo(f"{number} of {len(planned)}: {one}")
        if not dry_run:
            verdict = drills.rehearse(one)
            num_wrong += not verdict.is_right
            typer.echo(f"  {verdict}")
    if num_wrong:
        raise typer.Exit(1)


def _end(number: int, frame: object) -> None:
    """What a drill has begun ends with it."""
    sys.exit(128 + number)


def _controls(folder: Path) -> None:
    controls = []
    for control in Controls(folder, tell=typer.echo).all():
        typer.echo(str(control))
        controls.append(control)
    num_found = sum(control.is_found for control in controls)
    typer.echo(f"{num_found} of {len(controls)} found")
    if num_found < len(controls):
        raise typer.Exit(1)


@dataclass(frozen=True)
class SmallJob:
    """What is asked of a drill without a run."""

    folder: Path
    seed: int
    count: int
    schedule: int | None
    control: bool
    lab: bool


def _on_small_job(asked: SmallJob, dry_run: bool) -> None:
    signal.signal(signal.SIGTERM, _end)
    why = why_not_writable(asked.folder)
    if why:
        raise PlaceError(f"--folder {asked.folder}: {why}; name another place for runs and lines")
    if asked.control:
        _controls(asked.folder)
        return
    proof = Proof(asked.folder, asked.seed, has_lab=asked.lab, tell=typer.echo)
    number = asked.schedule
    keys = proof.keys(asked.count) if number is None else proof.keys(number)[-1:]
    if dry_run:
        for key in keys:
            typer.echo(f"{key}: {'; '.join(map(str, proof.draw(key)))}")
        return
    for rehearsal in proof.rehearse(asked.count) if number is None else proof.repeat(number):
        typer.echo(_words_of(rehearsal))
    told = proof.lines.summary(keys)
    typer.echo(told.words)
    typer.echo(f"lines: {proof.lines.path}; software {proof.code}")
    if not told.is_good:
        raise typer.Exit(1)


def _words_of(rehearsal: Rehearsal) -> str:
    """Some lines; of a schedule that is not as it should be also where its run lies."""
    lines = [f"{rehearsal.key}: {'; '.join(rehearsal.planned)}"]
    lines += [f"  {verdict}" for verdict in rehearsal.verdicts]
    hung = "; HUNG, and was ended" if rehearsal.is_hung else ""
    left = f"; LEFT: {', '.join(rehearsal.left)}" if rehearsal.left else "; nothing is left"
    lines.append(f"  {rehearsal.bits}{hung}{left}; {rehearsal.seconds:.0f} s")
    if not rehearsal.is_good:
        num_come, num_planned = len(rehearsal.verdicts), len(rehearsal.planned)
        lines.append(f"  FAILED: {num_come} of {num_planned} faults have come")
        lines.append(f"  its run: {rehearsal.evidence}; once more: {rehearsal.again}")
    return "\n".join(lines)


def _print_table() -> None:
    table = plain_table("fault", "what it does", "named as", "in a job file?")
    for one in FAULTS:
        named = f"{one.kind} of {' or '.join(one.culprits)}" if one.kind else "nothing"
        ordered = f"no: {one.refusal}" if one.refusal else "yes"
        table.add_row(one.name, one.does, named, ordered)
    print_table(table)
