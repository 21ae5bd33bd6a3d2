"""`dougong conform`: whether an accelerator computes, moves and waits as a run needs it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dougong.conform.kit.crew import Examination, Told
from dougong.conform.kit.page import groups_of, operator_rows
from dougong.conform.kit.report import examine, keep
from dougong.conform.record import CheckOutcome, Conformance
from dougong.errors import PlaceError
from dougong.launcher.signals import asking
from dougong.models.configs.of_folder import refuse_own_code
from dougong.records.files import why_not_writable
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
    the device's library is one of its answers. Ctrl-C keeps what has been looked at, marked as cut
    short. Exit status: 0 sound, 1 unsound, 2 bad input, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.

    Example: dougong conform --accelerator cpu --model qwen3_moe
    """
    folder = out or Path("conformance") / accelerator
    _refuse_no_folder(folder)
    if model and Path(model).is_dir():
        refuse_own_code(model)  # before checks that take minutes
    console = Console(highlight=False)
    with _Ending().heard() as ending, console.status("") as line:

        def tell(told: Told) -> None:
            if not isinstance(told, CheckOutcome):
                line.update(f"{told.group}: {told.name}")

        found = examine(Examination(accelerator, model, threads), tell)
        if not found.outcomes:
            typer.echo(f"{ending.name} at {found.cut_short}, before a check was over", err=True)
            raise typer.Exit(ending.status)
        if found.cut_short:
            found = found.model_copy(update={"signal": ending.number})
        line.stop()
        _print(found, console)  # first: it is all there is where the report cannot be written
        page = keep(found, folder)
    console.print(f"{page}\n{folder / found.file}", markup=False, soft_wrap=True)
    if found.cut_short:
        typer.echo(f"{ending.name} at {found.cut_short}: what was over is kept", err=True)
    raise typer.Exit(found.exit_status)


def _print(found: Conformance, console: Console) -> None:
    console.print(group_table(found))
    for text in remarkable(found):
        console.print(text, markup=False, soft_wrap=True)
    console.print(verdict(found), markup=False, soft_wrap=True)


def _refuse_no_folder(folder: Path) -> None:
    """Before anything is checked, which takes minutes, for a report that could not be kept."""
    why = why_not_writable(folder)
    if why:
        raise PlaceError(f"--out {folder}: {why}; name another place for the report")


class _Ending:
    """The first signal that asks the command to end; those after it change nothing, since what has
    been found is being kept."""

    def __init__(self) -> None:
        self.number: int = signal.SIGINT

    @property
    def name(self) -> str:
        is_typed = self.number == signal.SIGINT
        return "ended by Ctrl-C" if is_typed else f"ended by {signal.Signals(self.number).name}"

    @property
    def status(self) -> int:
        return 128 + self.number

    @contextmanager
    def heard(self) -> Iterator[_Ending]:
        """A signal becomes KeyboardInterrupt, to the end of the `with` block."""
        before = {number: signal.getsignal(number) for number in asking()}
        try:
            for number in before:
                signal.signal(number, self._end)
            yield self
        except KeyboardInterrupt:
            typer.echo(f"{self.name} before a check had begun; nothing is kept", err=True)
            raise typer.Exit(self.status) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        for other in asking():
            signal.signal(other, signal.SIG_IGN)
        self.number = number
        raise KeyboardInterrupt


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
    if found.verdict == "none":
        num_over = plural(len(found.outcomes), "check")
        return f"{found.accelerator}: cut short, no verdict; nothing was found wrong by {num_over}"
    if found.is_sound:
        num_sound = sum(row.sound for row in groups_of(found))
        left = len(found.outcomes) - num_sound
        not_run = f"; {left} not run" if left else ""
        return f"{found.accelerator}: sound, by {plural(num_sound, 'check')}{not_run}"
    return (
        f"{found.accelerator}: unsound; begin with "
        f"{', '.join(dict.fromkeys(outcome.judges for outcome in found.culprits))}"
    )
