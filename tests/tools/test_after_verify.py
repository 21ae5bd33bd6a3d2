"""What `dougong verify --key` says and signs where signatures are missing, wrong, or of another key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import KeyStanding, SigningKey
from dougong.launcher.signing.key_file import make_key
from dougong.records.directory import RunDir
from dougong.records.events import CheckpointRejected, FirstStep, RunCreated, RunEnded
from dougong.records.status import RunStatus
from dougong.tools.after_verify import standing_of
from tests.checkpoint.edits import rewrite
from tests.checkpoint.saving import save, tiny_model
from tests.cli.test_checkpoint import dougong, spoil


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


@pytest.fixture
def other(tmp_path: Path) -> SigningKey:
    """A key that has signed nothing yet."""
    return make_key(tmp_path / "keys" / "key")


def finish(run: RunDir) -> None:
    run.append_event(RunEnded(kind="finished", generation=1, step=60, saved=60))
    run.write_status(RunStatus(job="test", state="FINISHED", generation=1, step=60, steps=60))


def last_line(run: RunDir, *words: str | Path) -> str:
    told = dougong("verify", run.path, *words)
    assert told.exit_code == 1
    return str(told.stderr.splitlines()[-1]).replace(str(run.path), "RUN")


def test_whole_ones_beside_a_damaged_one_are_to_be_signed_and_not_thrown_away(run: RunDir, other: SigningKey) -> None:
    finish(run)
    victim = run.checkpoints / "step-000060"
    spoil(victim)
    sign = (
        f"--sign puts this key's name under them, by your word that nobody has changed them: dougong verify {run.path}"
    )
    for place in (run.path, victim):
        told = dougong("verify", place, "--key", other.path).stderr
        of_victim = told.partition(f"{victim}: not valid")[2]
        assert "is not signed, and must be" in of_victim and ": digest: expected" in of_victim
        assert "next: step-000060 cannot be used; as for step-000020, step-000040: they are whole;" in told
        assert told.splitlines()[-1].endswith(f"{sign} --key {other.path} --sign")
        assert "--from-scratch" not in told
    signing = dougong("verify", run.path, "--key", other.path, "--sign")
    assert f"note: {victim}: not signed: it is damaged" in signing.stderr
    assert signing.stdout.count("signed by key") == 2
    assert signing.stderr.splitlines()[-1] == f"next: dougong resume {run.path} -o checkpoint.sign={other.path}"


def test_a_damaged_one_before_a_whole_last_one_is_named_and_a_finished_run_is_exported(
    run: RunDir, other: SigningKey
) -> None:
    """`export` takes no `-o`: what is suggested can be typed."""
    finish(run)
    victim = run.checkpoints / "step-000040"
    spoil(victim)
    for place in (run.path, victim):
        told = dougong("verify", place, "--key", other.path, "--sign").stderr
        assert f"note: {victim}: not signed: it is damaged" in told
        assert ": digest: expected" in told
        assert told.splitlines()[-1] == f"next: dougong export {run.path} OUT"
    assert standing_of(victim, other) is KeyStanding.UNSIGNED
    assert last_line(run) == "next: dougong export RUN OUT"


def test_of_a_finished_run_a_damaged_last_one_is_computed_again_where_the_run_was(run: RunDir) -> None:
    run.append_event(RunCreated(generation=2, job="test", command=("dougong", "resume", "run", "--no-ray")))
    run.append_event(FirstStep(generation=2, step=21))
    finish(run)
    spoil(run.checkpoints / "step-000060")
    assert last_line(run) == "next: dougong resume RUN --no-ray"
    spoil(run.checkpoints / "step-000020")
    assert last_line(run) == "next: dougong resume RUN --no-ray"
    spoil(run.checkpoints / "step-000040")
    assert last_line(run).endswith("set aside: dougong resume RUN --no-ray --from-scratch")


def test_a_copy_that_takes_the_place_of_a_rejected_one_is_gone_on_from(run: RunDir) -> None:
    """The record still says that all were rejected, which is no reason to look once more."""
    for step in (20, 40, 60):
        name = f"step-{step:06d}"
        run.append_event(CheckpointRejected(generation=1, directory=name, reason="damaged"))
    spoil(run.checkpoints / "step-000060")
    assert last_line(run) == "next: dougong resume RUN"


def test_where_one_was_changed_the_others_without_a_signature_are_not_to_be_signed(
    run: RunDir, key: SigningKey
) -> None:
    forge(run.checkpoints / "step-000060")
    for step in (20, 40):
        strip(run.checkpoints / f"step-{step:06d}")
    assert last_line(run, "--key", key.path).endswith("set aside: dougong resume RUN --from-scratch")
