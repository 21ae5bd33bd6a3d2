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
from dougong.checkpoint.commit import sign_anew
from dougong.checkpoint.directories import (
    DAMAGED,
    SET_ASIDE,
    list_committed,
    refuse_no_folder,
    step_of,
)
from dougong.checkpoint.proof.signing import KeyStanding, SigningKey
from dougong.checkpoint.verify import VerifyResult, verify_whoever_signed
from dougong.checkpoint.verify import verify as verify_checkpoint
from dougong.cli.options import JobFile, Overrides, RunPath
from dougong.errors import SourceError
from dougong.job.yaml import locations
from dougong.launcher.signing.key_file import read_key
from dougong.records.directory import RunDir
from dougong.tools import after_verify as after
from dougong.tools.experts.contents import is_folder
from dougong.tools.experts.looks import look_against, look_at_experts
from dougong.tools.job_check import load_whole_job


class Precision(str, Enum):
    """What `dougong export` can write."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def verify(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A checkpoint, a run with all its checkpoints, or a Hugging Face folder.",
        ),
    ],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Each must be signed by this key (checkpoint.sign)."),
    ] = None,
    sign: Annotated[
        bool,
        typer.Option(
            "--sign",
            help="Sign with --key what is whole, by your word that nobody has changed it: what is "
            "not signed, or by another key.",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER",
            help="A folder, checkpoint or run that must hold the same, expert by expert.",
        ),
    ] = None,
    allow_alike: Annotated[
        bool,
        typer.Option(
            "--allow-alike",
            help="Experts may be copies of each other, as where a dense model was made into one.",
        ),
    ] = False,
) -> None:
    """Read every byte of a checkpoint and say whether it is what was written.

    Of it, as of any Hugging Face folder, every expert must be there: with all of its tensors, none
    of them zero everywhere or not finite, and no two experts the same. --against compares it with
    another folder or checkpoint, whatever the order, the form on disk or the dtype.

    Exit status: 0 valid, 1 not, 2 nothing to look at.

    Example: dougong verify runs/quickstart/checkpoints/step-000060
    """
    if sign and key is None:
        raise SourceError("--sign: with which key? name its file: --key FILE")
    known = None if key is None else read_key(key)
    if is_folder(directory):
        if known is not None:
            raise SourceError(f"--key: {directory} is a Hugging Face folder, which nobody signs")
        _verify_experts([directory], against, allow_alike)
        return
    paths = _checkpoints_of(directory)
    if against is not None and len(paths) > 1:
        raise SourceError(f"--against: {directory} holds {len(paths)} checkpoints; name one")
    if sign and known is not None:
        _sign_trusted(directory, paths, known)
    _verify_checkpoints(directory, paths, known)
    _verify_experts(paths, against, allow_alike)


def _verify_checkpoints(directory: Path, paths: Sequence[Path], key: SigningKey | None) -> None:
    results = [verify_whoever_signed(path, key) for path in paths]
    for path in _set_aside_as_damaged(directory):
        typer.echo(f"note: {path}: was damaged when the run looked for a checkpoint", err=True)
    for result in results:
        _tell(result, key)
    if not all(result.ok for result in results):
        typer.echo(f"next: {after.next_words(directory, results, key)}", err=True)
        raise typer.Exit(1)


def _tell(result: VerifyResult, key: SigningKey | None) -> None:
    for remark in result.remarks:
        typer.echo(f"note: {result.directory}: {remark}", err=True)
    if result.ok:
        typer.echo(f"{result}{_signed_words(result, key)}")
        return
    typer.echo(f"{result.directory}: not valid", err=True)
    for problem in result.problems:
        typer.echo(f"  {problem}", err=True)


def _verify_experts(paths: Sequence[Path], against: Path | None, allow_alike: bool) -> None:
    looks = [look_at_experts(path, allow_alike) for path in paths]
    # What cannot be read is told once.
    if against is not None and looks[0].is_read:
        looks.append(look_against(paths[0], against))
    for look in looks:
        typer.echo("\n".join(look.lines), err=not look.is_good)
    if not all(look.is_good for look in looks):
        raise typer.Exit(1)


def _sign_trusted(directory: Path, paths: Sequence[Path], key: SigningKey) -> None:
    """By the word of whoever types it. Left as it is: what is damaged; what bears this key's name
    and is not as it was signed; and, unless it is named itself, what is not signed where others of
    its run are, for its signature may have been taken away."""
    is_named = paths == [directory]
    doubtful = not is_named and after.is_any_signed(paths, key)
    for path in paths:
        standing = after.standing_of(path, key)
        if standing is KeyStanding.SIGNED:
            continue
        found = verify_checkpoint(path)
        if found.ok and standing is not KeyStanding.WRONG and not doubtful:
            sign_anew(path, key)
        else:
            typer.echo(f"note: {path}: not signed: {after.why_not(standing, found)}", err=True)


def _signed_words(result: VerifyResult, key: SigningKey | None) -> str:
    if key is not None:
        return f", signed by key {key.name}"
    if result.signed_by:
        return f" (says that it is signed by key {result.signed_by}; `--key FILE` checks it)"
    return ""


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
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Only its adapters (model.lora), as a folder of peft."),
    ] = False,
) -> None:
    """Write a run's model as a plain Hugging Face folder.

    AutoModelForCausalLM.from_pretrained reads it. Adapters (model.lora) are merged into it.

    Example: dougong export runs/quickstart exported --dtype bfloat16
    """

    def skipped(found: VerifyResult) -> None:
        typer.echo(f"skipped: {found}", err=True)

    run = RunDir.open(run_dir)
    chosen = writing.choose(run.checkpoints, step, skipped)
    if adapter:
        _refuse_moved_biases(run)
    files, form = _exported(chosen, out, dtype.value, adapter)
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    typer.echo(f"{out}: {chosen.name} as {form}, {len(files)} files, {megabytes:.1f} MB")


def _refuse_moved_biases(run: RunDir) -> None:
    """Routers' biases are no adapters, and are not in what peft reads."""
    router = locations.read(run.read_job()).data.get("router") or {}
    if router.get("bias_rate") is not None:
        raise SourceError(
            f"{run.path}: router.bias_rate has moved biases of routers, so that adapters alone are "
            "not the model; export it without --adapter"
        )


def _exported(chosen: Path, out: Path, dtype: str, adapter: bool) -> tuple[list[Path], str]:
    """The files of an export, and what they hold in words. Without adapters no torch is needed."""
    if not adapter and not writing.has_adapters(chosen):
        return writing.export(chosen, out, dtype), dtype
    from dougong.tools.export import export_adapters, export_merged

    if adapter:
        return export_adapters(chosen, out, dtype), f"adapters in {dtype}"
    return export_merged(chosen, out, dtype), f"{dtype} with its adapters merged"


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
    if directory.is_file():
        raise SourceError(f"{directory}: is a file; give a checkpoint, a run or a folder")
    if not directory.is_dir():
        raise SourceError(f"{directory}: no such directory; give a checkpoint or a run")
    if (directory / "manifest.json").is_file() or step_of(directory) is not None:
        return [directory]
    root = directory if list_committed(directory) else RunDir.open(directory).checkpoints
    refuse_no_folder(root)
    committed = reversed(list_committed(root))
    paths = [found.path for found in committed]
    if not paths:
        raise SourceError(f"{root}: holds no checkpoint yet")
    return paths
