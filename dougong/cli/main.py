"""The command line's front: what commands there are, and how errors end.

A command's module is imported when that command is called, so that each pays for its own imports
alone. Errors that dougong raises on purpose end here as a message on stderr and an exit status,
without a traceback.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from dougong import __version__
from dougong.control.environment import refuse_foreign_code
from dougong.errors import DougongError, PlaceError


@dataclass(frozen=True)
class Command:
    """A command as the front knows it. `function`: what runs, as `module:function`; `summary`: the
    first sentence of its help."""

    name: str
    function: str
    summary: str


COMMANDS = (
    Command(
        "run",
        "dougong.cli.run:run",
        "Train a job, through failures, to its end.",
    ),
    Command(
        "resume",
        "dougong.cli.run:resume",
        "Go on with a run that has stopped, failed or was lost, from its newest valid checkpoint.",
    ),
    Command(
        "start",
        "dougong.cli.start:start",
        "Begin a run, or go on with it: for schedulers, which type the same line again.",
    ),
    Command(
        "status",
        "dougong.cli.watch:status",
        "Say where a run stands, alive or ended.",
    ),
    Command(
        "logs",
        "dougong.cli.watch:logs",
        "Print what workers have printed.",
    ),
    Command(
        "stop",
        "dougong.cli.watch:stop",
        "Stop a run: it finishes the step and writes a checkpoint, then ends.",
    ),
    Command(
        "plan",
        "dougong.cli.plan:plan",
        "Show who would run which lanes and experts, and a step as a chart; use no device.",
    ),
    Command(
        "check",
        "dougong.cli.check:check",
        "Check a job file and say every mistake at once, with its line. Starts nothing.",
    ),
    Command(
        "data",
        "dougong.cli.report:data",
        "Show the first sequences that a run reads as text, and what is learnt; start nothing.",
    ),
    Command(
        "doctor",
        "dougong.cli.doctor.command:doctor",
        "Check every node before a job: against its peers, and against this machine.",
    ),
    Command(
        "schema",
        "dougong.cli.check:schema",
        "Print the job file's JSON Schema, for editors that complete and check YAML.",
    ),
    Command(
        "verify",
        "dougong.cli.checkpoint:verify",
        "Read every byte of a checkpoint and say whether it is what was written.",
    ),
    Command(
        "diff",
        "dougong.cli.diff:diff",
        "Compare two checkpoints, runs or Hugging Face folders bit by bit; name what differs.",
    ),
    Command(
        "export",
        "dougong.cli.checkpoint:export",
        "Write a run's model as a plain Hugging Face folder.",
    ),
    Command(
        "import-deepspeed",
        "dougong.cli.checkpoint:import_deepspeed",
        "Make a run that goes on from a DeepSpeed universal checkpoint.",
    ),
    Command(
        "report",
        "dougong.cli.report:report",
        "Draw a run as one page: loss, speed, goodput, faults, bits, layout, environment.",
    ),
    Command(
        "fingerprint",
        "dougong.cli.fingerprint:fingerprint",
        "Hash the bits of fixed computations: equal classes mean equal arithmetic.",
    ),
    Command(
        "prove",
        "dougong.cli.prove:prove",
        "Run a job on several layouts of this machine and compare their bits.",
    ),
    Command(
        "conform",
        "dougong.cli.conform:conform",
        "Check a device: operators, copies, streams, memory, collectives, training, checkpoints.",
    ),
    Command(
        "drill",
        "dougong.cli.drill:drill",
        "Rehearse faults, on a run that allows it or on a small job of its own.",
    ),
    Command(
        "calibrate",
        "dougong.cli.calibrate:calibrate",
        "Measure islands' speeds in two short runs, and print them for the job file.",
    ),
)

_HELP = """Train one mixture-of-experts model on unlike accelerators, and ride out their failures.

Start here:  [bold]dougong run examples/quickstart.yaml[/bold]
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit status: 0 done; 1 failed, or what was looked at is not as it should be; 2 bad input: what
    the command was given is wrong, not there or damaged; 3 a run that is alive; 130 interrupted.
    """
    refuse_foreign_code()
    try:
        build_command().main(args=arguments, prog_name="dougong")
    except DougongError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def build_command() -> TyperGroup:
    """All commands by name; the one that is called is loaded then."""
    group = _group_of(_new_app())
    for command in COMMANDS:
        group.add_command(TyperCommand(command.name, short_help=command.summary))
    return group


def load_command(name: str) -> Any:
    """A command with all its options, made by typer from its function."""
    (command,) = (command for command in COMMANDS if command.name == name)
    module, _, function = command.function.partition(":")
    app = _new_app()
    implementation = getattr(importlib.import_module(module), function)
    app.command(name, help=_help_of(implementation))(implementation)
    return _group_of(app).commands[name]


class _Front(TyperGroup):
    """Lists the commands by their summaries alone, and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        _refuse_empty(str(name), rest)
        return name, load_command(str(name)), rest


def _refuse_empty(command: str, words: Sequence[str]) -> None:
    """PlaceError for a word that is empty, as a shell's variable leaves it that is not set: it
    would be taken for none, or for the working directory."""
    for number, word in enumerate(words):
        option, has_value, value = word.partition("=")
        is_whole = word.startswith("--") and bool(has_value)
        if word and not (is_whole and not value):
            continue
        before = words[number - 1] if number else ""
        place = option if word else f"argument {number + 1}"
        if not word and before.startswith("-"):
            place = f"what follows {before}"
        raise PlaceError(
            f"dougong {command}: {place} is empty, as a variable of a shell is that is not set; "
            "give it a value, or leave it out"
        )


def _help_of(implementation: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line: a terminal folds it anew to its own width."""
    text = inspect.cleandoc(implementation.__doc__ or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _group_of(app: typer.Typer) -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def _new_app() -> typer.Typer:
    app = typer.Typer(
        cls=_Front,
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_front)
    return app


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
