"""The command line's front: help, version, exit statuses, and errors without a traceback."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import typer
from dougong import __version__
from dougong.cli import main
from dougong.errors import DougongError, JobError
from tests.launcher.jobs import ROOT

COMMANDS = {
    "check", "schema", "run", "resume", "start", "status", "logs", "stop", "plan", "verify", "diff", "export", "report",
    "doctor", "fingerprint", "conform", "prove", "data", "drill", "calibrate", "import-deepspeed",
}  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def exit_of(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_all_commands_are_there() -> None:
    assert set(main.build_command().commands) == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example" in text
    assert f"dougong {command}" in text.partition("Example")[2]


@pytest.mark.parametrize("command", main.COMMANDS, ids=lambda command: command.name)
def test_the_front_says_of_a_command_what_its_help_begins_with(command: main.Command) -> None:
    loaded = main.load_command(command.name)
    assert loaded.help.partition("\n\n")[0] == command.summary
    assert loaded.callback.__name__ == command.name.replace("-", "_")


def test_the_front_s_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for command in main.COMMANDS:
        assert f"{command.name} {command.summary}" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(["--version"]) == 0
    assert capsys.readouterr().out == f"dougong {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chekc"], "check"),
        (["check"], "Missing argument"),
        (["check", "a", "b"], "unexpected extra argument"),
        (["check", "--nothing"], "No such option"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["conform", "--accelerator", "cpu", "--model", ""], "what follows --model"),
        (["conform", "--accelerator=cpu", "--model="], "--model"),
        (["conform", "--accelerator", "cpu", "--out", ""], "what follows --out"),
        (["run", "job.yaml", "--run-dir="], "--run-dir"),
        (["run", "job.yaml", "-o", ""], "what follows -o"),
        (["resume", ""], "argument 1"),
        (["logs", "runs/a", ""], "argument 2"),
    ],
)
def test_a_variable_that_is_not_set_is_not_taken_for_nothing(
    arguments: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(arguments) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err == (
        f"dougong {arguments[0]}: {place} is empty, as a variable of a shell is that is not set; give it a value, or "
        "leave it out\n"
    )


def test_an_override_may_give_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(["check", str(ROOT / "examples" / "quickstart.yaml"), "-o", "data.tokenizer="]) == 0


def test_alone_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    exit_of([])
    assert "dougong run examples/quickstart.yaml" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        ("DougongError('place: rule')", 1, "place: rule\n"),
        ("JobError('a\\nb')", 2, "a\nb\n"),
        ("KeyboardInterrupt()", 130, ""),
        ("typer.Exit(143)", 143, ""),
    ],
)
def test_errors_become_messages_and_exit_statuses(raised: str, status: int, said: str) -> None:
    """In a process of its own, with a command that raises, through the same `main`."""
    done = python(
        "import typer\n"
        "from dougong.errors import DougongError, JobError\n"
        "from dougong.cli import check as module, main\n"
        f"def check(file: str) -> None: raise {raised}\n"
        "module.check = check\n"
        "main.main(['check', 'job.yaml'])\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_our_own_mistakes_keep_their_traceback() -> None:
    done = python(
        "from dougong.cli import check as module, main\n"
        "def check(file: str) -> None: raise ZeroDivisionError('oh')\n"
        "module.check = check\n"
        "main.main(['check', 'job.yaml'])\n"
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.endswith("ZeroDivisionError: oh\n")


@pytest.mark.parametrize("started", ["build_command()", "main(['--help'])", "main(['--version'])"])
def test_the_front_loads_nothing_heavy(started: str) -> None:
    done = python(
        "import contextlib, io, sys; from dougong.cli.main import build_command, main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): {started}\n"
        "print(*{'torch', 'ray', 'transformers', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m dougong schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "{") and "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [DougongError("a"), JobError("b")])
def test_errors_travel(error: DougongError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


def test_python_m_dougong_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dougong", "--version"], cwd=ROOT, capture_output=True, timeout=60)
    assert done.stdout.decode() == f"dougong {__version__}\n"
    assert isinstance(main.build_command(), typer.core.TyperGroup)


def test_a_paragraph_of_a_command_s_help_is_one_line() -> None:
    paragraphs = main.load_command("run").help.split("\n\n")
    assert len(paragraphs) == 4 and not any("\n" in paragraph for paragraph in paragraphs)
