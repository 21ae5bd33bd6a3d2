"""`dougong report`: draw a run's page again, at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command()(report)


def report(
    run_dir: Annotated[
        Path,
        typer.Argument(metavar="RUN_DIR", help="the run's directory, such as runs/quickstart-..."),
    ],
) -> None:
    """Write RUN_DIR/report.html: loss, speed, layout, failures, checkpoints and environment of a
    run on one page.

    Works while the run goes on, too. Example: dougong report runs/quickstart-20251122-093000
    """
    from dougong.records.directory import RunDir
    from dougong.ui.history import closing_words
    from dougong.ui.report.page import write_report

    run = RunDir.open(run_dir)
    page = write_report(run)
    typer.echo(closing_words(run), err=True)
    typer.echo(page)
