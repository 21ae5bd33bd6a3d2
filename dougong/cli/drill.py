"""`dougong drill`: rehearse faults, on a run that allows it or on a small job of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dougong.cli.tables import plain_table, print_table
from dougong.errors import JobError
from dougong.job.drills.vocabulary import FAULTS, has_worker
from dougong.records.directory import RunDir
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


def drill(
    run_dir: Run = None,
    seed: Annotated[int, typer.Option(min=0, help="What is drawn; the same seed, the same.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many schedules, or faults of a run.")] = 1,
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
    folder: Annotated[
        Path,
        typer.Option(help="Where the small job's runs and lines go; goes on with what is there."),
    ] = Path("runs/drill"),
    lab: Annotated[
        bool, typer.Option("--lab", help="Small job: draw what takes root and hosts, too.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Print the vocabulary of faults.")] = False,
) -> None:
    """Rehearse faults, on a run that allows it or on a small job of its own.

    Each is announced before it comes. On a run: draws faults that it survives, has the controller
    and its agents do them, and says of each what was named and when it trained again. On its own
    job: draws schedules, and holds final weights, optimizer and samples against the undisturbed
    run, bit by bit. Exit status: 0 all as it should be, 1 not.

    Example: dougong drill --seed 7 --count 3
    """
    if show:
        _print_table()
        return
    takes_worker = fault is not None and has_worker(fault)
    if takes_worker != (on is not None):
        text = "--fault and --on go together: --fault stop --on east/1"
        raise JobError(text if fault is None or takes_worker else f"{fault} takes no --on")
    if run_dir is None and fault is not None:
        raise JobError("--fault is for a run: dougong drill RUN_DIR --fault stop --on east/1")
    if run_dir is None:
        _on_small_job(Proof(folder, seed, has_lab=lab), count, dry_run)
        return
    drills = RunDrills(RunDir.open(run_dir), tell=lambda text: typer.echo(f"  {text}"))
    if fault is None:
        planned = list(drills.draw(seed, count))
    else:
        planned = [PlannedFault(fault, on or "", after_s=0.0, for_s=for_s)]
    _on_run(drills, planned, dry_run)


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


def _on_small_job(proof: Proof, count: int, dry_run: bool) -> None:
    for key in proof.keys(count) if dry_run else ():
        typer.echo(f"{key}: {'; '.join(map(str, proof.draw(key)))}")
    if dry_run:
        return
    for rehearsal in proof.rehearse(count):
        typer.echo(f"{rehearsal.key}: {'; '.join(rehearsal.planned)}")
        for verdict in rehearsal.verdicts:
            typer.echo(f"  {verdict}")
        hung = "; HUNG, and was ended" if rehearsal.is_hung else ""
        left = f"; LEFT: {', '.join(rehearsal.left)}" if rehearsal.left else "; nothing is left"
        typer.echo(f"  {rehearsal.bits}{hung}{left}; {rehearsal.seconds:.0f} s")
    told = proof.summary(count)
    typer.echo(told.words)
    if not told.is_good:
        raise typer.Exit(1)


def _print_table() -> None:
    table = plain_table("fault", "what it does", "named as", "goes on?", "in a job file?")
    for one in FAULTS:
        named = f"{one.kind} of {' or '.join(one.culprits)}" if one.kind else "nothing"
        ordered = f"no: {one.refusal}" if one.refusal else "yes"
        table.add_row(one.name, one.does, named, one.decision, ordered)
    print_table(table)
