"""`dougong report`: draw a run's page again, at any time; `dougong data`: what a run reads."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dougong.cli.options import JobFile, Overrides, RunPath
from dougong.data.show import first_sequences
from dougong.job.load import placed
from dougong.records.directory import RunDir
from dougong.tools.job_check import load_whole_job
from dougong.ui.history import closing_words
from dougong.ui.report.page import write_report

_BEGIN, _END = "⟦", "⟧"
"""Around what is learnt, where there are no colours."""


def report(run_dir: RunPath) -> None:
    """Draw a run as one page: loss, speed, goodput, faults, bits, layout, environment.

    It is written to RUN_DIR/report.html. Works while the run goes on, too.

    Example: dougong report runs/quickstart-20251122-093000
    """
    run = RunDir.open(run_dir)
    page = write_report(run)
    typer.echo(closing_words(run), err=True)
    typer.echo(page)


def data(
    file: JobFile,
    override: Overrides = None,
    sequences: Annotated[
        int, typer.Option("-n", "--sequences", min=1, help="How many, from the first step on.")
    ] = 3,
) -> None:
    """Show the first sequences that a run reads as text, and what is learnt; start nothing.

    What is learnt is green on a terminal, and stands in ⟦ ⟧ elsewhere. Chats are as the tokenizer's
    chat template renders them. The data is tokenised for it, and kept for the run.

    Example: dougong data examples/quickstart.yaml -n 1 -o data.sequence_length=64
    """
    resolved = load_whole_job(file, override or [])
    has_colours = sys.stdout.isatty()
    with placed(resolved):
        for one in first_sequences(resolved.job, sequences):
            typer.echo(typer.style(f"--- {one.title}", bold=True))
            typer.echo("".join(_words(p.text, p.is_learnt, has_colours) for p in one.pieces))


def _words(text: str, is_learnt: bool, has_colours: bool) -> str:
    if not is_learnt:
        return text
    return typer.style(text, fg="green") if has_colours else f"{_BEGIN}{text}{_END}"
