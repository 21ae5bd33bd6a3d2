"""`dougong report`: draw a run's page again, at any time."""

from __future__ import annotations

import typer

from dougong.cli.options import RunPath
from dougong.records.directory import RunDir
from dougong.ui.history import closing_words
from dougong.ui.report.page import write_report


def report(run_dir: RunPath) -> None:
    """Draw a run as one page: loss, speed, goodput, faults, bits, layout, environment.

    It is written to RUN_DIR/report.html. Works while the run goes on, too.

    Example: dougong report runs/quickstart-20251122-093000
    """
    run = RunDir.open(run_dir)
    page = write_report(run)
    typer.echo(closing_words(run), err=True)
    typer.echo(page)
