"""`dougong diff`: where two checkpoints or two runs differ, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dougong.deadlines import DEADLINES
from dougong.errors import DougongError
from dougong.records.directory import RunDir
from dougong.tools.experts.contents import is_checkpoint, is_weights
from dougong.tools.local_run import LocalRunOptions
from dougong.tools.run_diff import diff as compare
from dougong.tools.trace_diff import retrace


def diff(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="A checkpoint, a run, or a Hugging Face folder.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Take tensors of equal recorded digests as equal.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Differences to show.")] = 10,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Of two runs: run the first step that differs again, and find the place.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Runs of unequal length are different (exit status 1)."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for each of the two runs of --trace.")
    ] = DEADLINES.local_run_s,
) -> None:
    """Compare two checkpoints, runs or Hugging Face folders bit by bit; name what differs.

    It names the first step and tensor that differ. Of runs of unequal length the common steps are
    compared. Of folders, of which one may be a checkpoint, experts are found again where they are
    in another order or form. --trace runs that step on this machine, on the
    layout of each run, and names the lane, micro-batch, layer and segment where the two part. Exit
    status: 0 equal, 1 different, 2 error.

    Example: dougong diff runs/one runs/two
    """
    try:
        comparison = compare(a, b, trust_digests=quick)
    except DougongError as error:
        typer.echo(f"dougong diff: {error}", err=True)
        raise typer.Exit(2) from error
    if is_weights(a):
        _note_idle(trace=trace, strict=strict, quick=quick and not all(map(is_checkpoint, (a, b))))
    typer.echo("\n".join(comparison.lines(limit)))
    if comparison.equal and (comparison.same_length or not strict):
        return
    if trace and not comparison.equal and not is_weights(a):
        _print_trace(a, b, timeout)
    raise typer.Exit(1)


def _note_idle(**options: bool) -> None:
    """Options that say nothing of what was compared."""
    for option in [option for option, is_given in options.items() if is_given]:
        kind = "two checkpoints or runs" if option == "quick" else "two runs"
        typer.echo(f"note: --{option}: is for {kind}, and nothing was done by it", err=True)


def _print_trace(a: Path, b: Path, timeout_s: float) -> None:
    options = LocalRunOptions(timeout_s=timeout_s)
    try:
        found = retrace(RunDir.open(a), RunDir.open(b), options)
    except DougongError as error:
        typer.echo(f"dougong diff --trace: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"step {found.step} was run again on both layouts, from {found.start}:")
    for line in found.lines:
        typer.echo(f"  {line}")
