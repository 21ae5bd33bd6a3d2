"""`dougong report` as a person types it."""

from __future__ import annotations

from pathlib import Path

import typer
from dougong.cli.report import report
from dougong.errors import LaunchError
from tests.ui.recorded import finished_run
from typer.testing import CliRunner


def test_it_draws_the_page_and_names_it(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report)
    run = finished_run(tmp_path / "run")
    done = CliRunner().invoke(app, [str(run.path)])
    assert (done.exit_code, done.stdout.strip()) == (0, str(run.report_file))
    assert run.report_file.exists()
    assert isinstance(CliRunner().invoke(app, [str(tmp_path)]).exception, LaunchError)
