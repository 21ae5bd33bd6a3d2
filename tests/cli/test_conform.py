"""`dougong conform`: its words, its exit status, and the commands of its document."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import dougong.cli.conform as command
import pytest
import typer
from dougong.cli.conform import group_table, remarkable, verdict
from dougong.conform.record import CUT_SHORT_FILE, FILE, Conformance
from dougong.errors import PlaceError, StorageError
from tests.conform.kit.found import found
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "conform.md"


def conform(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", "conform", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=280)


def app() -> typer.Typer:
    found = typer.Typer()
    found.command()(command.conform)
    return found


def test_words_of_an_unsound_device() -> None:
    texts = list(remarkable(found()))
    assert texts[0] == "unsound: aten::mm (mm): float32: other bits; and more"
    assert "follows: linear, from aten::mm" in texts
    assert "composed of other operators: norm" in texts
    assert "a wait: no streams here" in texts
    assert verdict(found()) == "simq: unsound; begin with aten::mm, model"
    assert verdict(found(is_sound=True)) == "simq: sound, by 4 checks; 1 not run"
    assert group_table(found()).row_count == 4


def test_words_of_a_report_that_was_cut_short() -> None:
    part = found(is_sound=True).model_copy(update={"cut_short": "training: fifty steps"})
    assert verdict(part) == "simq: cut short, no verdict; nothing was found wrong by 5 checks"
    worse = found().model_copy(update={"cut_short": "training: fifty steps"})
    assert verdict(worse) == verdict(found()), "what is unsound stays so"


def read_until(terminal: int, words: bytes, limit_s: float = 240) -> bytes:
    """What the terminal shows, to these words or to its end."""
    shown, until = b"", time.monotonic() + limit_s
    while words not in shown and time.monotonic() < until:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:  # nobody holds the other end any more
            break
    return shown


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ctrl_c_keeps_what_was_looked_at_and_leaves_no_process(tmp_path: Path) -> None:
    """Typed into a terminal, while operators are checked."""
    (tmp_path / FILE).write_text("an earlier report")
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "dougong", "conform", "--accelerator", "cpu", "--out", str(tmp_path)]
        os.execve(sys.executable, command, {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)})
    try:
        assert b"operators: " in (shown := read_until(terminal, b"operators: ")), shown
        workers = children_of(pid)
        os.write(terminal, b"\x03")
        said = read_until(terminal, b"\0").decode()
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said
    assert re.search(r"ended by Ctrl-C at operators: .*: what was over is kept", said), said
    assert workers and not any(Path(f"/proc/{worker}").exists() for worker in workers)
    kept = Conformance.model_validate_json((tmp_path / CUT_SHORT_FILE).read_text())
    assert (kept.verdict, kept.exit_status) == ("none", 130)
    assert kept.cut_short.startswith("operators: ") and kept.group("copies") and not kept.is_sound
    assert "Cut short at operators" in (tmp_path / "cut-short.html").read_text()
    assert (tmp_path / FILE).read_text() == "an earlier report"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--accelerator", "gpu"), "accelerator gpu: not known (did you mean cuda?); known are cpu"),
        (("--accelerator", "CPU"), "accelerator CPU: not known (did you mean cpu?); known are cpu"),
        (("--accelerator", "cpu", "--model", "llama"), "--model llama: llama is a dense family, which has no experts"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = conform(tmp_path, *words)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith(told) and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_report_that_could_not_be_kept_is_refused_before_anything_is_checked(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = conform(tmp_path, "--accelerator", "cpu", "--out", "taken")
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith("--out taken: ") and "taken is not a folder; name another" in done.stderr
    for out, why in ((f"{tmp_path}/taken/below", "taken is not a folder"), ("/proc/x", "/proc cannot be written: .*")):
        told = CliRunner().invoke(app(), ["--accelerator", "cpu", "--out", out]).exception
        assert isinstance(told, PlaceError), out
        assert re.fullmatch(rf"--out {out}: .*{why}; name another place for the report", str(told))


def test_a_report_for_which_there_is_no_room_is_printed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room was there when the command began."""
    (tmp_path / "at" / FILE).mkdir(parents=True)
    monkeypatch.setattr(command, "examine", lambda trial, tell: found())
    done = CliRunner().invoke(app(), ["--accelerator", "cpu", "--out", str(tmp_path / "at")])
    assert "begin with aten::mm, model" in done.output
    assert isinstance(done.exception, StorageError)
    assert re.search(
        r"at: the report cannot be written: .*; make room there, or name another place", str(done.exception)
    )


def test_no_model_is_asked_for_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "examine", lambda trial, tell: found(is_sound=True))
    done = CliRunner().invoke(app(), ["--accelerator", "cpu"])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "conformance" / "cpu" / FILE).read_text())
    assert (kept["verdict"], kept["exit_status"]) == ("sound", 0)


@pytest.mark.slow
def test_the_document_s_commands_do_what_they_say(tmp_path: Path) -> None:
    fenced = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in fenced for line in block.splitlines() if line]
    assert commands
    for line in commands:
        words = shlex.split(line)
        assert words[:2] == ["dougong", "conform"]
        done = conform(tmp_path, *words[2:])
        assert done.returncode == 0, done.stdout + done.stderr
    kept = Conformance.model_validate_json((tmp_path / "conformance" / "cpu" / FILE).read_text())
    assert kept.is_sound and kept.model == "qwen3_moe"
