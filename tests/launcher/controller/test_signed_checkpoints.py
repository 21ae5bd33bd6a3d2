"""A controller whose job signs goes on from nothing that its key has not signed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dougong.checkpoint.commit import sign_anew
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.proof.signing import SigningKey
from dougong.launcher.controller.checkpoints import CheckpointManager
from dougong.launcher.controller.inbound.inbox import Background, Inbox
from dougong.launcher.signing.key_file import make_key
from tests.checkpoint.edits import rewrite
from tests.launcher.controller.conftest import JOB
from tests.launcher.controller.test_checkpoints import again, commit, find


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "private" / "checkpoints.key")


@pytest.fixture
def signed(tmp_path: Path, inbox: Inbox, key: SigningKey) -> CheckpointManager:
    return CheckpointManager(tmp_path / "checkpoints", JOB, Background("test-commit", inbox), key=key)


def forge(directory: Path) -> None:
    """Another seed, with digests that agree and the signature that was there."""
    rewrite(directory, lambda body: body["header"]["random"].update(seed=99))


def test_what_somebody_without_the_key_has_changed_is_passed_over_and_set_aside(
    signed: CheckpointManager, inbox: Inbox
) -> None:
    for step in (5, 10):
        commit(signed, inbox, step)
    assert find(signed, inbox).directory == signed.root / "step-000010"
    forge(signed.root / "step-000010")
    unsigned = again(signed.root, inbox, has_committed=True)
    assert find(unsigned, inbox).directory == signed.root / "step-000010", "without a key nobody can see it"
    found = find(replace(signed), inbox)
    assert found.directory == signed.root / "step-000005"
    assert "somebody without the key has changed it" in found.rejected[0].reason
    assert found.rejected[0].aside == signed.root / "set-aside/1/step-000010.damaged"


def test_a_run_that_begins_to_sign_goes_on_from_what_somebody_vouches_for(
    tmp_path: Path, inbox: Inbox, key: SigningKey
) -> None:
    root = tmp_path / "checkpoints"
    commit(again(root, inbox), inbox, 5)
    signs = replace(again(root, inbox, has_committed=True), key=key)
    found = find(signs, inbox)
    assert (found.directory, found.is_away) == (None, False)
    assert f"`dougong verify {tmp_path} --key {key.path}` says what is wrong" in str(found.refusal)
    assert "is not signed, and must be" in found.rejected[0].reason
    assert (root / "step-000005").is_dir(), "nothing is moved where nothing is left"
    sign_anew(root / "step-000005", key)
    assert find(signs, inbox).directory == root / "step-000005"


def test_small_files_of_a_forged_one_are_not_handed_on(
    signed: CheckpointManager, inbox: Inbox, key: SigningKey
) -> None:
    commit(signed, inbox, 5)
    forge(signed.root / "step-000005")
    document = json.loads((signed.root / "step-000005/manifest.json").read_bytes())
    assert document["signature"]["key"] == key.name
    done = commit(replace(signed, _companions=None), inbox, 10)
    assert Manifest.load(done.directory, key).signed_by == key.name
