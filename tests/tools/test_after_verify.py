"""What `dougong verify --key` says and signs where signatures are missing, wrong, or of another key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import KeyStanding, SigningKey
from dougong.launcher.signing.key_file import make_key
from dougong.records.directory import RunDir
from dougong.records.events import RunCreated
from dougong.tools.after_verify import standing_of
from tests.checkpoint.edits import rewrite
from tests.checkpoint.saving import save, tiny_model
from tests.cli.test_checkpoint import dougong


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Three checkpoints, and an event that says by which command it was begun."""
    run = RunDir.create(tmp_path / "run")
    run.write_job("job: test\n")
    run.append_event(RunCreated(generation=1, job="test", command=("dougong", "run", "job.yaml")))
    model = tiny_model("qwen3_moe", num_hidden_layers=1)
    for step in (20, 40, 60):
        save(run.checkpoints, model, step=step)
    return run


@pytest.fixture
def key(run: RunDir) -> SigningKey:
    key = make_key(run.path / "private" / "checkpoints.key")
    assert dougong("verify", run.path, "--key", key.path, "--sign").exit_code == 0
    return key


def forge(directory: Path) -> None:
    rewrite(directory, lambda body: body["header"].update(seed=99))


def strip(directory: Path) -> None:
    document = json.loads((directory / "manifest.json").read_bytes())
    del document["signature"]
    (directory / "manifest.json").write_text(json.dumps(document))


def test_a_forgery_under_the_keys_own_name_is_never_signed(run: RunDir, key: SigningKey) -> None:
    """And a resume is told to look at signatures, which this run's job does not say."""
    victim = run.checkpoints / "step-000060"
    forge(victim)
    before = (victim / "manifest.json").read_bytes()
    told = dougong("verify", run.path, "--key", key.path)
    assert told.exit_code == 1
    assert "--sign" not in told.output
    resume = f"next: dougong resume {run.path} -o checkpoint.sign={key.path}"
    assert told.stderr.splitlines()[-1] == resume
    for place in (run.path, victim):
        signing = dougong("verify", place, "--key", key.path, "--sign")
        assert signing.exit_code == 1
        assert f"note: {victim}: not signed: somebody without the key has changed it" in signing.stderr
        assert (victim / "manifest.json").read_bytes() == before
    assert standing_of(victim, key) is KeyStanding.WRONG


def test_a_copy_elsewhere_that_was_forged_needs_another(run: RunDir, key: SigningKey, tmp_path: Path) -> None:
    forge((run.checkpoints / "step-000060").rename(tmp_path / "copy"))
    told = dougong("verify", tmp_path / "copy", "--key", key.path)
    assert told.stderr.splitlines()[-1].startswith("next: put a whole copy in its place, then: dougong verify")


def test_one_without_its_signature_among_others_is_signed_by_its_own_name_alone(run: RunDir, key: SigningKey) -> None:
    victim = run.checkpoints / "step-000060"
    strip(victim)
    one = f"dougong verify {victim} --key {key.path} --sign"
    for words in (("verify", run.path), ("verify", victim), ("verify", run.path, "--sign")):
        told = dougong(*words, "--key", key.path)
        assert told.exit_code == 1
        assert "the signature of step-000060 may have been taken away" in told.stderr
        assert told.stderr.splitlines()[-1].endswith(f"where you know why it has none: {one}")
    assert standing_of(victim, key) is KeyStanding.UNSIGNED
    assert dougong("verify", victim, "--key", key.path, "--sign").exit_code == 0
    assert Manifest.load(victim, key).signed_by == key.name


def test_of_another_key_the_right_one_is_asked_for_first(run: RunDir, key: SigningKey, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_key(tmp_path / "other" / "private" / "key")
    last = dougong("verify", run.path, "--key", other.path).stderr.splitlines()[-1]
    assert last.startswith("next: name the key that they were signed with; where it is lost, --sign puts")
    assert last.endswith(f"dougong verify {run.path} --key {other.path} --sign")
    assert dougong("verify", run.path, "--key", other.path, "--sign").exit_code == 0
