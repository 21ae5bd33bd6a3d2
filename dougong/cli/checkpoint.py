"""`dougong verify` and `export`: what a run has saved, which take no torch; and `import-deepspeed`,
what another program has."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dougong.checkpoint import export as writing
from dougong.checkpoint.directories import DAMAGED, SET_ASIDE, list_committed, step_of
from dougong.checkpoint.verify import VerifyResult
from dougong.checkpoint.verify import verify as verify_checkpoint
from dougong.cli.options import JobFile, Overrides, RunPath
from dougong.errors import SourceError
from dougong.launcher.client import read_status
from dougong.records.directory import RunDir
from dougong.tools.job_check import load_whole_job
from dougong.ui.next_step import next_step, program


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

    Exit status: 0 valid, 1 not, 2 no checkpoint to look at.

    Example: dougong verify runs/quickstart/checkpoints/step-000060
    """
    results = [verify_checkpoint(path) for path in _checkpoints_of(directory)]
    for path in _set_aside_as_damaged(directory):
        typer.echo(f"note: {path}: was damaged when the run looked for a checkpoint", err=True)
    for result in results:
        if result.ok:
            typer.echo(str(result))
            continue
        typer.echo(f"{result.directory}: not valid", err=True)
        for problem in result.problems:
            typer.echo(f"  {problem}", err=True)
    if not all(result.ok for result in results):
        typer.echo(f"next: {_after(directory, results)}", err=True)
        raise typer.Exit(1)


def _after(directory: Path, results: Sequence[VerifyResult]) -> str:
    """What to type where not all are valid."""
    words = f"dougong verify {shlex.quote(str(directory))}"
    bad = [result for result in results if not result.ok]
    if all(result.is_unread for result in bad):
        return f"mend or mount the storage, then: {words}"
    run = _run_of(results[0].directory)
    if run is None:
        return f"put a whole copy in its place, then: {words}"
    status, events = read_status(run), run.read_events()
    named = shlex.quote(str(run.path))
    seen = {result.directory.absolute() for result in results}
    others = [place.path for place in list_committed(run.checkpoints) if place.path not in seen]
    is_any_valid = len(bad) < len(results) or any(verify_checkpoint(path).ok for path in others)
    if is_any_valid or (not status.has_ended and status.state != "LOST"):
        return str(next_step(run.path, status.state.lower(), events))
    resume = f"{program(events)} resume {named} --from-scratch"
    return f"put a whole copy in its place, or begin anew, with what is there set aside: {resume}"


def _run_of(checkpoint: Path) -> RunDir | None:
    """The run whose checkpoint it is; None for a folder of its own."""
    run = RunDir(checkpoint.absolute().parent.parent)
    is_its = checkpoint.absolute().parent == run.checkpoints and run.events_file.is_file()
    return run if is_its else None


def _set_aside_as_damaged(directory: Path) -> list[Path]:
    """Of a run, those that it found to be damaged, and goes on without."""
    root = directory if list_committed(directory) else directory / "checkpoints"
    return sorted(root.glob(f"{SET_ASIDE}/*/*{DAMAGED}"))


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


def import_deepspeed(
    file: JobFile,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A DeepSpeed universal checkpoint.")
    ],
    into: Annotated[
        Path, typer.Option(metavar="DIR", help="The new run's directory.", show_default=False)
    ],
    override: Overrides = None,
) -> None:
    """Make a run that goes on from a DeepSpeed universal checkpoint.

    It has the weights, moments and step of the checkpoint; `dougong resume` goes on with it. The
    job's model must be that which DeepSpeed has trained.

    Example: dougong import-deepspeed job.yaml checkpoints/universal --into runs/imported
    """
    from dougong.tools.import_deepspeed import import_deepspeed as import_folder

    found = import_folder(load_whole_job(file, override or []), folder, into)
    more = f" -o steps={2 * found.step}" if found.step >= found.steps else ""
    typer.echo(f"{into}: {found.num_tensors} tensors, with their moments, after step {found.step}")
    typer.echo(f"next: dougong resume {shlex.quote(str(into))}{more}")


def _checkpoints_of(directory: Path) -> list[Path]:
    """The checkpoint itself, or every one of a run, oldest first. Raises SourceError when it
    is neither."""
    if not directory.is_dir():
        raise SourceError(f"{directory}: no such directory; give a checkpoint or a run")
    if (directory / "manifest.json").is_file() or step_of(directory) is not None:
        return [directory]
    root = directory if list_committed(directory) else RunDir.open(directory).checkpoints
    committed = reversed(list_committed(root))
    paths = [found.path for found in committed]
    if not paths:
        raise SourceError(f"{root}: holds no checkpoint yet")
    return paths
