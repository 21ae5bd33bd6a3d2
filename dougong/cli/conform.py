"""`dougong conform`: whether an accelerator computes, moves and waits as a run needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dougong.conform.kit.crew import Examination, Told
from dougong.conform.kit.page import groups_of, operator_rows
from dougong.conform.kit.report import examine, keep
from dougong.conform.record import FILE, CheckOutcome, Conformance
from dougong.errors import DeviceError
from dougong.models.configuration import refuse_own_code
from dougong.ui.formatting import plural


def conform(
    accelerator: Annotated[str, typer.Option(help="Kind of device, as in a job file.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="FAMILY_OR_PATH",
            help="Also try this model, segment by segment: a family (with a small configuration) "
            "or a Hugging Face folder.",
            show_default=False,
        ),
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="Compute threads of the processor.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the report goes. Default: conformance/ACCELERATOR.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check a device: operators, copies, streams, memory, collectives, training, checkpoints.

    Every check names the operator or the method of the device that it judges; a crash or a hang of
    the device's library is one of its answers. Exit status: 0 sound, 1 unsound, 2 bad input.

    Example: dougong conform --accelerator cpu --model qwen3_moe
    """
    folder = out or Path("conformance") / accelerator
    _refuse_no_folder(folder)
    if Path(model).is_dir():
        refuse_own_code(model)  # before checks that take minutes
    console = Console(highlight=False)
    with console.status("") as line:

        def tell(told: Told) -> None:
            if not isinstance(told, CheckOutcome):
                line.update(f"{told.group}: {told.name}")

        found = _examined(Examination(accelerator, model, threads), tell)
    page = keep(found, folder)
    console.print(group_table(found))
    for text in remarkable(found):
        console.print(text, markup=False, soft_wrap=True)
    console.print(f"{verdict(found)}\n{page}\n{folder / FILE}", markup=False, soft_wrap=True)
    if not found.is_sound:
        raise typer.Exit(1)


def _refuse_no_folder(folder: Path) -> None:
    """Before anything is checked, which takes minutes, for a report that could not be kept."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "is not a folder" if not there.is_dir() else "cannot be written"
        typer.echo(f"--out {folder}: {there} {why}; name another place for the report", err=True)
        raise typer.Exit(2)


def _examined(trial: Examination, tell: Callable[[Told], None]) -> Conformance:
    """A device that cannot be tried is bad input, not an unsound one."""
    try:
        return examine(trial, tell)
    except DeviceError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


def group_table(found: Conformance) -> Table:
    """How many checks of each group came to what."""
    table = Table("checks", "sound", "unsound", "not run", box=box.SIMPLE)
    for row in groups_of(found):
        unsound = f"[bold red]{row.unsound}[/]" if row.unsound else "–"
        table.add_row(row.name, str(row.sound), unsound, str(row.not_run or "–"))
    return table


def remarkable(found: Conformance) -> Iterator[str]:
    """What is to be mended, then operators that are not native, then what was remarked."""
    for outcome in found.culprits:
        yield f"unsound: {outcome.judges} ({outcome.name}): {'; '.join(outcome.words)}"
    for outcome in found.unsound:
        if not outcome.is_culprit:
            yield f"follows: {outcome.name}, from {', '.join(outcome.follows)}"
    composed = [row.outcome.name for row in operator_rows(found) if row.facts.form == "composed"]
    if composed:
        yield f"composed of other operators: {', '.join(composed)}"
    told: dict[str, list[str]] = {}
    for outcome in found.outcomes:
        for text in outcome.remarks:
            told.setdefault(text, []).append(outcome.name)
    for text, names in told.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"{', '.join(names[:3])}{more}: {text}"


def verdict(found: Conformance) -> str:
    """The last word."""
    if found.is_sound:
        num_sound = sum(row.sound for row in groups_of(found))
        left = len(found.outcomes) - num_sound
        not_run = f"; {left} not run" if left else ""
        return f"{found.accelerator}: sound, by {plural(num_sound, 'check')}{not_run}"
    return (
        f"{found.accelerator}: unsound; begin with "
        f"{', '.join(dict.fromkeys(outcome.judges for outcome in found.culprits))}"
    )
