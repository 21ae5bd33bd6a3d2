"""`dougong verify` and `export` as a person types them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from dougong.cli.checkpoint import export, verify
from dougong.errors import DougongError
from dougong.launcher.signing.key_file import make_key
from dougong.models.stored.folder import SINGLE
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import save, tiny_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("qwen3_moe", num_hidden_layers=1)


@pytest.fixture
def run(model: Any, tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "run")
    run.write_job("job: test\n")
    run.append_metrics({"generation": 1, "step": 1, "loss": 3.0})
    for step in (20, 40):
        save(run.checkpoints, model, step=step)
    return run


def dougong(*words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(verify)
    app.command()(export)
    return CliRunner().invoke(app, [str(word) for word in words])


def spoil(directory: Path) -> None:
    path = directory / "model/model-rank00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_verify_a_checkpoint_and_a_run(run: RunDir) -> None:
    one = dougong("verify", run.checkpoints / "step-000020")
    assert one.exit_code == 0
    assert one.output.count(": ok") == 1
    for directory in (run.path, run.checkpoints):
        every = dougong("verify", directory)
        assert (every.exit_code, every.output.count(": ok")) == (0, 2)


def test_verify_names_the_damage(run: RunDir) -> None:
    spoil(run.checkpoints / "step-000040")
    result = dougong("verify", run.path)
    assert result.exit_code == 1
    assert result.output.count(": ok") == 1
    assert "step-000040: not valid" in result.output
    assert "model/model-rank00000.safetensors: model." in result.output
    (run.checkpoints / "step-000020/manifest.json").unlink()
    assert dougong("verify", run.checkpoints / "step-000020").exit_code == 1


def test_verify_says_what_to_type_next(run: RunDir, tmp_path: Path) -> None:
    """Where one is valid the run goes on from it; where none is, only anew, or from a copy."""
    run.append_event(RunCreated(generation=1, job="test", command=("dougong", "run", "job.yaml")))
    names = sorted(place.name for place in run.checkpoints.glob("step-*"))
    spoil(run.checkpoints / names[-1])
    assert f"next: dougong resume {run.path}" in dougong("verify", run.path).stderr.splitlines()
    for name in names[:-1]:
        spoil(run.checkpoints / name)
    alone = dougong("verify", run.checkpoints / names[-1]).stderr
    assert alone.splitlines()[-1].endswith(f"dougong resume {run.path} --from-scratch")
    (run.checkpoints / names[0]).rename(tmp_path / "copy")
    assert "put a whole copy in its place, then: dougong verify" in dougong("verify", tmp_path / "copy").stderr
    aside = run.checkpoints / "set-aside" / "1" / f"{names[0]}.damaged"
    aside.mkdir(parents=True)
    assert f"note: {aside}: was damaged" in dougong("verify", run.path).stderr


def test_verify_checks_signatures_by_a_key_and_signs_what_a_person_trusts(run: RunDir, tmp_path: Path) -> None:
    key = make_key(tmp_path / "private" / "key")
    unsigned = dougong("verify", run.path, "--key", key.path)
    assert unsigned.exit_code == 1
    assert "is not signed, and must be" in unsigned.stderr
    words = f"dougong verify {run.path} --key {key.path}"
    means = "--sign puts this key's name under them, by your word that nobody has changed them"
    assert f"next: they are whole; {means}: {words} --sign" in unsigned.stderr
    assert "signed" not in dougong("verify", run.path).stdout
    spoil(run.checkpoints / "step-000040")
    signing = dougong("verify", run.path, "--key", key.path, "--sign")
    assert signing.exit_code == 1, "what is damaged is not signed"
    assert signing.stdout.count(f": ok, signed by key {key.name}") == 1
    assert f"says that it is signed by key {key.name}" in dougong("verify", run.checkpoints / "step-000020").stdout
    nameless = dougong("verify", run.path, "--sign")
    assert isinstance(nameless.exception, DougongError)
    assert "with which key?" in str(nameless.exception)


def test_a_key_that_is_none_is_bad_input(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "open").write_bytes(bytes(32))
    (tmp_path / "open").chmod(0o644)
    os.mkfifo(tmp_path / "pipe", 0o600)
    said = {
        tmp_path / "missing": "the key cannot be read: No such file",
        tmp_path / "short": "is no key",
        tmp_path / "open": "others may read or write this key",
        tmp_path / "pipe": "is a pipe, and a key is a file of 32 to 65536 bytes of chance; name its file",
        Path("/dev/zero"): "is a device or a socket, and a key is a file",
        tmp_path: "is a directory, and a key is a file",
    }
    for path, words in said.items():
        result = dougong("verify", run.path, "--key", path)
        assert isinstance(result.exception, DougongError)
        assert result.exception.exit_status == 2
        assert words in str(result.exception)
        assert "move away" not in str(result.exception)


def test_verify_what_is_neither(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        result = dougong("verify", path)
        assert isinstance(result.exception, DougongError)
        assert result.exception.exit_status == 2
    empty = RunDir.create(tmp_path / "empty")
    empty.write_job("job: test\n")
    assert "no checkpoint yet" in str(dougong("verify", empty.path).exception)


def test_a_file_in_the_place_of_a_runs_checkpoints_is_told(run: RunDir, tmp_path: Path) -> None:
    run.checkpoints.rename(tmp_path / "moved")
    run.checkpoints.write_text("mine")
    for words in (("verify", run.path), ("export", run.path, tmp_path / "out")):
        result = dougong(*words)
        assert isinstance(result.exception, DougongError)
        assert result.exception.exit_status == 2
        assert f"{run.checkpoints}: a file lies where a folder must be; move it away" in str(result.exception)
    run.checkpoints.unlink()
    run.checkpoints.symlink_to(tmp_path / "away")
    assert f"is a link to {tmp_path}/away, which is not there; mount it" in str(dougong("verify", run.path).exception)


def test_export_writes_the_newest_or_the_named_step(run: RunDir, tmp_path: Path) -> None:
    result = dougong("export", run.path, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "step-000040 as float32" in result.output
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    spoil(run.checkpoints / "step-000040")
    result = dougong("export", run.path, tmp_path / "narrow", "--dtype", "bfloat16")
    assert "skipped: " in result.output
    assert "step-000020 as bfloat16" in result.output
    assert "is not empty" in str(dougong("export", run.path, tmp_path / "out").exception)
    assert "choose another --step" in str(dougong("export", run.path, tmp_path / "x", "--step", "40").exception)
    assert dougong("export", run.path, tmp_path / "x", "--dtype", "float8").exit_code == 2


@pytest.mark.parametrize("command", ["checkpoint", "diff", "run", "watch", "plan", "report", "prove", "fingerprint"])
def test_no_command_loads_torch(command: str) -> None:
    libraries = "{'torch', 'ray', 'transformers'}"
    code = f"import sys, dougong.cli.{command}\nassert not {libraries} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def with_a_copied_expert(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    tensors = load_file(out / SINGLE)
    for name in [name for name in tensors if ".experts.3." in name]:
        tensors[name] = tensors[name.replace(".3.", ".0.")].clone()
    save_file(tensors, out / SINGLE)
    return out


def test_verify_looks_at_the_experts_of_a_folder_and_of_a_checkpoint(run: RunDir, folder: Path, tmp_path: Path) -> None:
    said = "8 experts in each of 1 layer, no two of a layer alike, none of zeros, every value of an expert finite"
    said = said.replace("each of 1 layer", "1 layer")
    for place in (folder, run.checkpoints / "step-000020"):
        result = dougong("verify", place)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, f"{place}: {said}")
    copied = with_a_copied_expert(folder, tmp_path / "copied")
    result = dougong("verify", copied)
    assert result.exit_code == 1
    assert "  model.layers.0.mlp.experts: experts 0, 3 are the same, bit by bit" in result.stderr
    assert f"dougong verify {copied} --allow-alike" in result.stderr
    assert dougong("verify", copied, "--allow-alike").exit_code == 0


def test_verify_holds_a_folder_against_another(run: RunDir, folder: Path, tmp_path: Path) -> None:
    checkpoint = run.checkpoints / "step-000020"
    for a, b in ((folder, checkpoint), (checkpoint, folder), (folder, folder)):
        result = dougong("verify", a, "--against", b)
        assert result.exit_code == 0 and "equal, bit by bit: " in result.stdout
    copied = with_a_copied_expert(folder, tmp_path / "copied")
    result = dougong("verify", folder, "--against", copied)
    assert result.exit_code == 1 and "expert 3 of A is none of B's" in result.stderr
    (copied / SINGLE).write_bytes(b"")
    result = dougong("verify", folder, "--against", copied)
    assert (
        result.exit_code == 1
        and f"--against: {copied / SINGLE}: is empty: the download was not complete" in result.stderr
    )
    assert dougong("verify", copied).exit_code == 1


def test_verify_of_what_it_cannot_look_at_says_so(run: RunDir, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DougongError, match="holds 2 checkpoints; name one"):
        raise_from("verify", run.path, "--against", folder)
    with pytest.raises(DougongError, match="is a Hugging Face folder, which nobody signs"):
        raise_from("verify", folder, "--key", make_key(tmp_path / "key").path)
    with pytest.raises(DougongError, match="is neither a checkpoint nor a Hugging Face folder"):
        raise_from("verify", folder, "--against", tmp_path)


def test_verify_of_a_file_says_that_it_is_one(folder: Path) -> None:
    with pytest.raises(DougongError, match="config.json: is a file; give a checkpoint, a run or a folder"):
        raise_from("verify", folder / "config.json")


def test_verify_tells_a_mistake_once(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{")
    result = dougong("verify", tmp_path / "broken", "--against", folder)
    assert result.exit_code == 1 and result.stderr.count("not valid") == 1
    assert result.stderr.count("config.json") == 1, result.stderr


def raise_from(*words: str | Path) -> None:
    error = dougong(*words).exception
    assert error is not None
    raise error
