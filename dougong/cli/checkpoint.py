"""`dougong verify` and `export`: what a run has saved. Neither of them imports torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dougong.checkpoint import export as writing
from dougong.checkpoint.directories import list_committed, step_of
from dougong.checkpoint.verify import VerifyResult
from dougong.checkpoint.verify import verify as verify_checkpoint
from dougong.cli.options import RunPath
from dougong.errors import CheckpointError
from dougong.records.directory import RunDir


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

    Exit status: 0 valid, 1 not.

    Example: dougong verify runs/quickstart/checkpoints/step-000060
    """
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


def export(
    run_dir: RunPath,
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
    """Write a run's model as a plain Hugging Face folder.

    AutoModelForCausalLM.from_pretrained reads it.

    Example: dougong export runs/quickstart exported --dtype bfloat16
    """

    def skipped(found: VerifyResult) -> None:
        typer.echo(f"skipped: {found}", err=True)

    chosen = writing.choose(RunDir.open(run_dir).checkpoints, step, skipped)
    files = writing.export(chosen, out, dtype.value)
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    typer.echo(f"{out}: {chosen.name} as {dtype.value}, {len(files)} files, {megabytes:.1f} MB")


def _checkpoints_of(directory: Path) -> list[Path]:
    """The checkpoint itself, or every one of a run, oldest first. Raises CheckpointError when it
    is neither."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; give a checkpoint or a run")
    if (directory / "manifest.json").is_file() or step_of(directory) is not None:
        return [directory]
    root = directory if list_committed(directory) else RunDir.open(directory).checkpoints
    committed = reversed(list_committed(root))
    paths = [found.path for found in committed]
    if not paths:
        raise CheckpointError(f"{root}: holds no checkpoint yet")
    return paths
