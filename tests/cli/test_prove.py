"""`dougong prove` before anything runs; tests/test_readme.py types it, tests/tools/test_prove.py runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from dougong.cli.prove import prove
from dougong.errors import JobError
from tests.launcher.jobs import QUICKSTART
from typer.testing import CliRunner, Result


def dougong_prove(*words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(prove)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_job_that_promises_nothing_is_refused() -> None:
    refused = dougong_prove(QUICKSTART, "-o", "determinism=run").exception
    assert isinstance(refused, JobError) and "there is nothing to prove" in str(refused)


@pytest.mark.parametrize("words", [("--layouts", "1"), ("--steps", "0"), ("--timeout", "0")])
def test_limits_of_its_options(words: tuple[str, str]) -> None:
    assert dougong_prove(QUICKSTART, *words).exit_code == 2
