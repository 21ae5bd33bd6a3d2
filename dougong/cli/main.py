"""The command line's front: one typer app, whose commands live in `dougong/cli/`, a light module
each.

Errors that dougong raises on purpose end here as a message on stderr and an exit status, without a
traceback.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from dougong import __version__
from dougong.errors import DougongError

COMMAND_MODULES = ("run", "check", "checkpoint", "report", "fingerprint", "prove", "calibrate")

_HELP = """Train one mixture-of-experts model on unlike accelerators, and ride out their failures.

Start here:  [bold]dougong run examples/quickstart.yaml[/bold]
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 a wrong command line or job file, 130
    interrupted."""
    try:
        build_command().main(args=arguments, prog_name="dougong")
    except DougongError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def build_command() -> typer.core.TyperGroup:
    """All commands, without running any. Importing them must stay light: no torch, no ray, no
    transformers."""
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_front)
    for name in COMMAND_MODULES:
        importlib.import_module(f"dougong.cli.{name}").register(app)
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dougong {__version__}")
        raise typer.Exit


def _front(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of `dougong` itself; each does its work in its own callback."""
