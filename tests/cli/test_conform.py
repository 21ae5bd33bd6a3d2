"""`dougong conform`: its words, its exit status, and the commands of its document."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from dougong.cli.conform import group_table, remarkable, verdict
from dougong.conform.record import FILE, Conformance
from tests.conform.kit.found import found

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "conform.md"


def conform(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dougong", "conform", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=280)


def test_words_of_an_unsound_device() -> None:
    texts = list(remarkable(found()))
    assert texts[0] == "unsound: aten::mm (mm): float32: other bits; and more"
    assert "follows: linear, from aten::mm" in texts
    assert "composed of other operators: norm" in texts
    assert "a wait: no streams here" in texts
    assert verdict(found()) == "simq: unsound; begin with aten::mm, model"
    assert verdict(found(is_sound=True)) == "simq: sound, by 4 checks; 1 not run"
    assert group_table(found()).row_count == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--accelerator", "gpu"), "accelerator gpu: not known (did you mean cuda?); known are cpu"),
        (("--accelerator", "cpu", "--model", "qwen3_mo"), "--model qwen3_mo: neither a folder nor a family"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = conform(tmp_path, *words)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr.startswith(told) and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_report_that_could_not_be_kept_is_refused_before_anything_is_checked(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in ("taken", "taken/below"):
        done = conform(tmp_path, "--accelerator", "cpu", "--out", out)
        assert (done.returncode, done.stdout.strip()) == (2, "")
        assert done.stderr.startswith(f"--out {out}: ") and "taken is not a folder; name another" in done.stderr


@pytest.mark.slow
def test_the_document_s_commands_do_what_they_say(tmp_path: Path) -> None:
    fenced = re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in fenced for line in block.splitlines() if line]
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["dougong", "conform"]
        done = conform(tmp_path, *words[2:])
        assert done.returncode == 0, done.stdout + done.stderr
    kept = Conformance.model_validate_json((tmp_path / "conformance" / "cpu" / FILE).read_text())
    assert kept.is_sound and kept.model == "qwen3_moe"
