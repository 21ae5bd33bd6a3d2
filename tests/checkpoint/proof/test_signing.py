"""What nobody without the key can make: a checkpoint that a run that signs goes on from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from random import Random

import pytest
from dougong.checkpoint.commit import Additions, commit, sign_anew
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import SigningKey
from dougong.checkpoint.repository import Known, newest_valid, prune, valid_one_of
from dougong.checkpoint.verify import verify, verify_sizes
from dougong.errors import CheckpointError
from dougong.launcher.signing.key_file import make_key
from tests.checkpoint.corruption import Scene
from tests.checkpoint.forgery import FORGED
from tests.checkpoint.saving import names_of, share, state_of, tiny_model, write_parts
from tests.families import SMALLEST


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return make_key(tmp_path_factory.mktemp("run") / "private" / "checkpoints.key")


@pytest.fixture(scope="module")
def written(key: SigningKey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signed checkpoints, of steps 20 and 40."""
    root = tmp_path_factory.mktemp("run")
    model = tiny_model("qwen3_moe", **SMALLEST)
    names = names_of(model, SMALLEST["num_experts"])
    state = state_of(model, names)
    for step in (20, 40):
        parts = write_parts(root, names, [share(state, 0, 1)], step)
        commit(root, step, 1, parts, Additions({"seed": 1234}, key=key))
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def another(tmp_path: Path) -> SigningKey:
    (tmp_path / "other").mkdir()
    return make_key(tmp_path / "other/private/key")


def test_what_is_signed_is_valid_with_the_key_and_without(root: Path, key: SigningKey) -> None:
    assert newest_valid(root, key=key) == newest_valid(root) == root / "step-000040"
    assert verify(root / "step-000040", key=key).signed_by == key.name
    assert valid_one_of(root, 20, key=key) == root / "step-000020"
    assert key.secret.hex() not in (root / "step-000040/manifest.json").read_text()
    assert repr(key.secret) not in repr(key)


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forgery_whose_digests_are_right_needs_the_key_to_be_found(root: Path, key: SigningKey, forge) -> None:  # type: ignore[no-untyped-def]
    victim = root / "step-000040"
    forge(Scene(root, victim, root / "step-000020", Random(0)))
    assert newest_valid(root) == victim, "without a key nobody can see it: that is what a signature is for"
    assert verify_sizes(victim).ok
    for result in (verify(victim, key=key), verify_sizes(victim, key=key)):
        assert "is not signed" in str(result) or "somebody without the key has changed it" in str(result)
    assert newest_valid(root, key=key) == root / "step-000020"
    with pytest.raises(CheckpointError, match="not valid"):
        valid_one_of(root, 40, key=key)


def test_a_signature_is_of_one_body_and_one_key(root: Path, key: SigningKey, tmp_path: Path) -> None:
    newest, oldest = root / "step-000040/manifest.json", root / "step-000020/manifest.json"
    documents = [json.loads(path.read_bytes()) for path in (newest, oldest)]
    documents[0]["signature"] = documents[1]["signature"]
    newest.write_text(json.dumps(documents[0]))
    with pytest.raises(CheckpointError, match=f"its signature by key {key.name} is wrong"):
        Manifest.load(newest.parent, key)
    other = another(tmp_path)
    with pytest.raises(CheckpointError, match=f"is signed by key {key.name}, and {other.path} is key {other.name}"):
        Manifest.load(oldest.parent, other)


@pytest.mark.parametrize("signature", [{}, [], "x", {"key": "x"}, {"key": [], "hmac-sha256": 3}, 7, False])
def test_a_signature_that_is_none_is_refused(root: Path, key: SigningKey, signature: object) -> None:
    path = root / "step-000040/manifest.json"
    document = json.loads(path.read_bytes())
    document["signature"] = signature
    path.write_text(json.dumps(document))
    assert not verify(path.parent, key=key).ok
    assert newest_valid(root, key=key) == root / "step-000020"


def test_a_forged_newest_one_costs_no_true_one_its_place(root: Path, key: SigningKey) -> None:
    shutil.copytree(root / "step-000040", root / "step-000060")
    path = root / "step-000060/manifest.json"
    manifest = Manifest.load(root / "step-000040")
    path.write_bytes(Manifest(60, 1, manifest.metadata, manifest.files, manifest.tensors).to_bytes())
    assert newest_valid(root) == root / "step-000060"
    pruned = prune(root, 1, known=Known(key=key))
    assert pruned.kept == (root / "step-000040",)
    assert pruned.invalid == (root / "step-000060",)


def test_who_trusts_one_signs_it(root: Path, key: SigningKey, tmp_path: Path) -> None:
    other = another(tmp_path)
    assert newest_valid(root, key=other) is None
    before = Manifest.load(root / "step-000040")
    sign_anew(root / "step-000040", other)
    assert newest_valid(root, key=other) == root / "step-000040"
    assert Manifest.load(root / "step-000040", other) == before
    assert not verify(root / "step-000040", key=key).ok


def test_a_signature_that_a_full_disk_refuses_leaves_the_checkpoint_as_it_was(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("dougong.checkpoint.commit.write_new", full)
    victim = root / "step-000040"
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=r"no space left to write a signature \(.*; free some, then the same command"
    ):
        sign_anew(victim, another(tmp_path))
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before
