"""`dougong verify`, `diff`, `export`: looking at what a run has saved. None of them imports
torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dougong.errors import DougongError


class Precision(str, Enum):
    """What `dougong export` can write."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def verify(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A checkpoint, or a run with all its checkpoints.")
    ],
) -> None:
    """Read every byte of a checkpoint and say whether it is what was written.

    Exit status: 0 valid, 1 not. Example: dougong verify runs/quickstart/checkpoints/step-000060
    """
    from dougong.checkpoint.verify import verify as verify_checkpoint

    results = [verify_checkpoint(path) for path in _checkpoints_of(directory)]
    for result in results:
        if result.ok:
            typer.echo(str(result))
            continue
        typer.echo(f"{result.directory}: not valid", err=True)
        for problem in result.problems:
            typer.echo(f"  {problem}", err=True)
    if not all(result.ok for result in results):
        raise typer.Exit(1)


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint or a run.")],
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
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for each of the two runs of --trace.")
    ] = 600.0,
) -> None:
    """Compare two checkpoints or two runs bit by bit and name the first step and tensor that
    differ.

    --trace runs that step on this machine, on the layout of each run, and names the lane,
    micro-batch, layer and segment where the two part. Exit status: 0 equal, 1 different, 2 error.
    Example: dougong diff runs/one runs/two
    """
    from dougong.tools.run_diff import diff as compare

    try:
        comparison = compare(a, b, trust_digests=quick)
    except DougongError as error:
        typer.echo(f"dougong diff: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo("\n".join(comparison.lines(limit)))
    if comparison.equal:
        return
    if trace:
        _print_trace(a, b, timeout)
    raise typer.Exit(1)


def _print_trace(a: Path, b: Path, timeout_s: float) -> None:
    from dougong.records.directory import RunDir
    from dougong.tools.local_run import LocalRunOptions
    from dougong.tools.trace_diff import retrace

    try:
        found = retrace(RunDir.open(a), RunDir.open(b), LocalRunOptions(timeout_s=timeout_s))
    except DougongError as error:
        typer.echo(f"dougong diff --trace: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"step {found.step} was run again on both layouts, from {found.start}:")
    typer.echo("\n".join(f"  {line}" for line in found.lines))


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The run.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet, or is empty.")
    ],
    step: Annotated[
        int | None, typer.Option(help="Which checkpoint; default: the newest valid one.")
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="What the weights are written as.")
    ] = Precision.FLOAT32,
) -> None:
    """Write a run's model as a plain Hugging Face folder, for AutoModelForCausalLM.from_pretrained.

    Example: dougong export runs/quickstart exported --dtype bfloat16
    """
    from dougong.checkpoint.export import choose
    from dougong.checkpoint.export import export as write
    from dougong.records.directory import RunDir

    run = RunDir.open(run_dir)
    chosen = choose(
        run.checkpoints, step, lambda path, reason: typer.echo(f"skipped: {reason}", err=True)
    )
    files = write(chosen, out, dtype.value)
    size = sum(path.stat().st_size for path in files)
    typer.echo(f"{out}: {chosen.name} as {dtype.value}, {len(files)} files, {size / 1e6:.1f} MB")


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (verify, diff, export):
        app.command()(command)


def _checkpoints_of(directory: Path) -> list[Path]:
    """The checkpoint itself, or every one of a run. `DougongError` when it is neither."""
    from dougong.checkpoint.directories import list_committed, step_of
    from dougong.errors import CheckpointError
    from dougong.records.directory import RunDir

    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; give a checkpoint or a run")
    if (directory / "manifest.json").is_file() or step_of(directory) is not None:
        return [directory]
    root = directory if list_committed(directory) else RunDir.open(directory).checkpoints
    places = [place.path for place in reversed(list_committed(root))]
    if not places:
        raise CheckpointError(f"{root}: holds no checkpoint yet")
    return places
