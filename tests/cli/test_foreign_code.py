"""Every command that takes a job, or a model's folder, refuses code that lies there or on a hub, and asks nobody."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from dougong.cli.main import main
from tests.folders import change_config, small_folder
from tests.launcher.jobs import write
from transformers import AutoConfig

FOLDERS = {
    "a kernel of a part": {"text_config": {"attn_implementation": {"": "owner/kernel"}}},
    "its own code": {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
}
COMMANDS = (
    ("check", "JOB"),
    ("plan", "JOB"),
    ("run", "JOB", "--no-ray", "--run-dir", "RUN"),
    ("start", "JOB", "--no-ray", "--run-dir", "RUN"),
    ("prove", "JOB"),
    ("fingerprint", "JOB"),
    ("calibrate", "JOB", "--no-ray"),
    ("import-deepspeed", "JOB", "FOLDER", "--into", "RUN"),
    ("conform", "--accelerator", "cpu", "--model", "FOLDER", "--out", "RUN"),
)


def with_own_code(folder: Path, kind: str) -> Path:
    """A folder that asks for code; returns the marker that its own would write."""
    marker = folder.parent / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    change_config(folder, **FOLDERS[kind])
    return marker


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_command_runs_no_code_of_a_folder(
    command: tuple[str, ...],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = small_folder(tmp_path / "model")
    marker = with_own_code(folder, kind)
    job = write(tmp_path, model=f"{{path: {folder}}}")
    places = {"JOB": str(job), "FOLDER": str(folder), "RUN": str(tmp_path / "run")}
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(SystemExit) as ended:
        main([places.get(word, word) for word in command])
    assert ended.value.code not in (0, None)
    told = "".join(capsys.readouterr())
    assert "dougong runs none" in " ".join(told.split()) and not marker.exists()
    assert not (tmp_path / "run").exists()


def test_the_code_of_such_a_folder_runs_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: its trap goes off."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = with_own_code(small_folder(tmp_path / "model"), "its own code")
    with pytest.raises(AttributeError, match="OwnConfig"):
        AutoConfig.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize("command", COMMANDS[:-1], ids=lambda words: words[0])
def test_a_command_runs_no_code_that_a_job_asks_for(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_folder(tmp_path / "model")
    job = write(tmp_path, model=f"{{path: {folder}, config: {{trust_remote_code: true}}}}")
    places = {"JOB": str(job), "FOLDER": str(folder), "RUN": str(tmp_path / "run")}
    with pytest.raises(SystemExit) as ended:
        main([places.get(word, word) for word in command])
    assert ended.value.code == 2
    assert "trust_remote_code: true); dougong runs none: leave it out" in " ".join("".join(capsys.readouterr()).split())
