"""Find and prune: what is damaged is passed over, and no deletion leaves half a checkpoint."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.directories import list_committed, list_pending
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.repository import Known, newest_valid, prune, reject, set_aside, valid_one_of, verify
from dougong.checkpoint.verify import Defect
from dougong.errors import CheckpointError
from tests.checkpoint.crash import run_dying
from tests.checkpoint.saving import make_not_finite, save, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("gpt_oss", num_hidden_layers=2)


@pytest.fixture(scope="module")
def one(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("one"), model)


def place(one: Path, root: Path, step: int, generation: int = 1, name: str = "") -> Path:
    """A valid checkpoint of another step, made of a written one."""
    target = root / (name or f"step-{step:06d}")
    shutil.copytree(one, target)
    manifest = Manifest.load(one)
    changed = Manifest(step, generation, manifest.metadata, manifest.files, manifest.tensors, manifest.keep_float32)
    (target / "manifest.json").write_bytes(changed.to_bytes())
    return target


def damage(directory: Path) -> None:
    path = directory / "optimizer/rank00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 16
    path.write_bytes(data)


def test_the_newest_valid_one_is_found_and_others_are_reported(one: Path, tmp_path: Path) -> None:
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    damage(tmp_path / "step-000060")
    (tmp_path / "step-000040/manifest.json").unlink()
    reasons: dict[str, str] = {}
    found = newest_valid(tmp_path, lambda one: reasons.update({one.directory.name: str(one)}))
    assert found == tmp_path / "step-000020"
    assert list(reasons) == ["step-000060", "step-000040"]
    assert "optimizer/rank00000.safetensors" in reasons["step-000060"]
    assert "never committed" in reasons["step-000040"]


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "missing") is None
    (tmp_path / "pending/step-000020.g1").mkdir(parents=True)
    (tmp_path / "step-abc").mkdir()
    assert newest_valid(tmp_path) is None


def test_steps_are_numbers(one: Path, tmp_path: Path) -> None:
    place(one, tmp_path, 999_999)
    assert newest_valid(tmp_path) == tmp_path / "step-999999"
    place(one, tmp_path, 1_000_000)
    assert newest_valid(tmp_path) == tmp_path / "step-1000000"


def test_two_generations_may_save_one_step(model: Any, tmp_path: Path) -> None:
    first = save(tmp_path, model, generation=1)
    second = save(tmp_path, model, generation=2, seed=1)
    assert (first.name, second.name) == ("step-000020", "step-000020.g2")
    assert newest_valid(tmp_path) == second
    damage(second)
    assert newest_valid(tmp_path) == first
    with pytest.raises(CheckpointError, match="never written twice"):
        save(tmp_path, model, generation=2)
    pruned = prune(tmp_path, keep=1, generation=3)
    assert pruned.kept == (first,)
    assert pruned.invalid == (second,)


def steps_left(root: Path) -> list[int]:
    return [p.step for p in reversed(list_committed(root))]


@pytest.mark.parametrize(
    ("damaged", "keep", "left"),
    [
        ([], 2, [60, 80]),
        ([], 9, [20, 40, 60, 80]),
        ([80], 1, [60, 80]),
        ([60, 80], 2, [20, 40, 60, 80]),
        ([40], 2, [40, 60, 80]),
        ([20, 40, 60, 80], 1, [20, 40, 60, 80]),
    ],
)
def test_prune_keeps_the_newest_valid_ones(
    damaged: list[int], keep: int, left: list[int], one: Path, tmp_path: Path
) -> None:
    for step in (20, 40, 60, 80):
        place(one, tmp_path, step)
    for step in damaged:
        damage(tmp_path / f"step-{step:06d}")
    pruned = prune(tmp_path, keep)
    assert steps_left(tmp_path) == left
    assert len(pruned.removed) == 4 - len(left)
    assert [int(p.name[5:]) for p in pruned.invalid] == sorted(damaged, reverse=True)
    assert not list(tmp_path.glob("pending/trash-*"))


def test_prune_leaves_links_and_other_peoples_files_alone(one: Path, tmp_path: Path) -> None:
    for step in (20, 30, 40, 50, 60):
        place(one, tmp_path, step)
    (tmp_path / "step-000020").rename(tmp_path / "elsewhere")
    (tmp_path / "step-000020").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "step-000030" / "notes.txt").write_text("the good one")
    (tmp_path / "step-000040" / "linked").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):
        pruned = prune(tmp_path, 1)
        assert dict(pruned.left) == {
            "step-000020": f"a link to {tmp_path / 'elsewhere'}",
            "step-000030": "holds notes.txt, which is no checkpoint's",
            "step-000040": "holds linked, a link",
        }
        assert steps_left(tmp_path) == [20, 30, 40, 60]
    assert verify(tmp_path / "step-000020").ok


@pytest.mark.skipif(os.geteuid() != 0, reason="a file that cannot be deleted needs root to be made")
def test_what_cannot_be_deleted_is_told_and_goes_when_it_can(one: Path, tmp_path: Path) -> None:
    """As of another user's file, or one that NFS keeps for whoever has it open."""
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    held = next((tmp_path / "step-000020" / "model").glob("*.safetensors"))
    subprocess.run(["mount", "--bind", str(held), str(held)], check=True, timeout=30)
    try:
        pruned = prune(tmp_path, 1)
    finally:
        subprocess.run(["umount", "-l", str(held)], check=False, timeout=30)
        inside = list(tmp_path.glob(f"pending/trash-*/model/{held.name}"))
        subprocess.run(["umount", "-l", *map(str, inside)], check=False, timeout=30, stderr=subprocess.DEVNULL)
    assert [path.name for path in pruned.removed] == ["step-000040"]
    assert pruned.left and all("busy" in reason.lower() for _, reason in pruned.left)
    assert prune(tmp_path, 1).left == ()
    assert not list(tmp_path.glob("pending/trash-*"))


@pytest.mark.parametrize("kind", ["pipe", "device", "deep"])
def test_a_directory_that_only_looks_like_a_checkpoint_blocks_no_recovery(kind: str, one: Path, tmp_path: Path) -> None:
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    model = next((tmp_path / "step-000060" / "model").glob("*.safetensors"))
    manifest = tmp_path / "step-000040" / "manifest.json"
    for file in (model, manifest):
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "device":
            file.symlink_to("/dev/zero")
        else:
            file.write_text("[" * 200_000)
    told: dict[str, str] = {}
    found = newest_valid(tmp_path, lambda one: told.update({one.directory.name: str(one)}))
    assert found == tmp_path / "step-000020"
    assert set(told) == {"step-000060", "step-000040"}


def test_prune_trusts_only_what_it_is_told_to_trust(one: Path, tmp_path: Path) -> None:
    for step in (20, 40):
        place(one, tmp_path, step)
    damage(tmp_path / "step-000040")
    assert prune(tmp_path, 1).kept == (tmp_path / "step-000020",)
    assert prune(tmp_path, 1, known=Known(trusted=["step-000040"])).kept == (tmp_path / "step-000040",)


def test_prune_does_not_read_again_what_it_is_told_is_damaged(one: Path, tmp_path: Path) -> None:
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    pruned = prune(tmp_path, 1, known=Known(invalid=["step-000060"]))
    assert (pruned.kept, pruned.invalid) == ((tmp_path / "step-000040",), (tmp_path / "step-000060",))
    assert steps_left(tmp_path) == [40, 60]


def test_the_checkpoint_of_a_step_is_its_newer_valid_one(model: Any, one: Path, tmp_path: Path) -> None:
    first, second = save(tmp_path, model, generation=1), save(tmp_path, model, generation=2, seed=1)
    place(one, tmp_path, 40)
    assert valid_one_of(tmp_path, 20) == second
    damage(second)
    assert valid_one_of(tmp_path, 20) == first
    damage(first)
    with pytest.raises(CheckpointError, match="rank00000.*choose another --step, there are: 20, 40"):
        valid_one_of(tmp_path, 20)
    with pytest.raises(CheckpointError, match="no checkpoint of step 30; there are: 20, 40"):
        valid_one_of(tmp_path, 30)


@pytest.mark.parametrize("keep", [0, -1])
def test_prune_keeps_at_least_one(keep: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint.keep"):
        prune(tmp_path, keep)


def test_prune_clears_what_ended_generations_left(one: Path, tmp_path: Path) -> None:
    place(one, tmp_path, 40, generation=2)
    for name in ("step-000020.g1", "step-000060.g1", "step-000020.g2", "step-000060.g2", "step-000060.g3"):
        (tmp_path / "pending" / name / "model").mkdir(parents=True)
    assert prune(tmp_path, 2).removed == ()
    assert [p.name for p in prune(tmp_path, 2, generation=2).removed] == [
        "step-000060.g1",
        "step-000020.g2",
        "step-000020.g1",
    ]
    assert [p.path.name for p in list_pending(tmp_path)] == ["step-000060.g3", "step-000060.g2"]


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_deletion_killed_at_any_call_never_leaves_half_a_checkpoint(every: int, one: Path, tmp_path: Path) -> None:
    for at_call in range(1, 200, every):
        root = tmp_path / str(at_call)
        for step in (20, 40):
            place(one, root, step)
        code = run_dying(lambda root=root: prune(root, 1, known=Known(trusted=["step-000040"])), at_call)
        assert all(verify(p.path).ok for p in list_committed(root))
        assert newest_valid(root) == root / "step-000040"
        if code == 0:
            break
        prune(root, 1)
        assert steps_left(root) == [40]
        assert not list(root.glob("pending/trash-*"))
        shutil.rmtree(root)
    assert code == 0


def test_a_checkpoint_that_is_not_finite_is_passed_over_and_never_counts_as_kept(one: Path, tmp_path: Path) -> None:
    """Older releases wrote such ones: the last good one is what a run goes on from, and it is not pruned."""
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    for step in (40, 60):
        make_not_finite(tmp_path / f"step-{step:06d}", "model.norm.weight")
    reasons: dict[str, str] = {}
    newest = newest_valid(tmp_path, lambda one: reasons.update({one.directory.name: str(one)}))
    assert newest == tmp_path / "step-000020" and list(reasons) == ["step-000060", "step-000040"]
    assert all("model.norm.weight: finite" in reason for reason in reasons.values())
    pruned = prune(tmp_path, 1)
    assert [path.name for path in pruned.kept] == ["step-000020"] and not pruned.removed
    assert [path.name for path in pruned.invalid] == ["step-000060", "step-000040"]


def made(root: Path, *steps: int) -> list[Path]:
    paths = [root / f"step-{step:06d}" for step in steps]
    for path in paths:
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(path.name)
    return paths


def test_each_time_has_a_folder_and_nothing_is_lost(tmp_path: Path) -> None:
    first = made(tmp_path, 20, 40, 60)
    folder = set_aside(tmp_path, first[1:])
    assert folder == tmp_path / "set-aside" / "1"
    assert [place.path for place in list_committed(tmp_path)] == first[:1]
    again = made(tmp_path, 40)
    assert set_aside(tmp_path, again) == tmp_path / "set-aside" / "2"
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("set-aside/*/*"))
    assert kept == ["set-aside/1/step-000040", "set-aside/1/step-000060", "set-aside/2/step-000040"]
    assert (folder / "step-000060" / "manifest.json").read_text() == "step-000060"


def test_what_cannot_be_moved_is_named(tmp_path: Path) -> None:
    made(tmp_path, 20)
    (tmp_path / "set-aside").write_text("a file")
    with pytest.raises(CheckpointError, match="set-aside"):
        set_aside(tmp_path, [tmp_path / "step-000020"])


def test_what_is_damaged_gets_a_name_that_says_so(one: Path, tmp_path: Path) -> None:
    path = place(one, tmp_path, 20)
    damage(path)
    (told,) = reject(tmp_path, [verify(path)])
    assert told.aside == tmp_path / "set-aside" / "1" / "step-000020.damaged"
    assert told.aside.is_dir() and not path.exists() and not told.is_left
    assert list_committed(tmp_path) == [] == list_committed(told.aside.parent)


def test_somebodys_files_and_what_cannot_be_moved_stay(one: Path, tmp_path: Path) -> None:
    paths = [place(one, tmp_path, step) for step in (20, 40, 60)]
    for path in paths:
        damage(path)
    (paths[0] / "notes.txt").write_text("mine")
    (paths[1] / "mine").symlink_to(tmp_path)
    (tmp_path / "set-aside").write_text("a file")
    told = reject(tmp_path, [verify(path) for path in paths])
    assert [one.aside for one in told] == [None] * 3 and all(one.is_left for one in told)
    assert "left there: holds notes.txt, which is no checkpoint's" in told[0].reason
    assert "left there: holds mine, a link" in told[1].reason
    assert "set-aside: " in told[2].reason or "Not a directory" in told[2].reason
    assert all(path.is_dir() for path in paths)


def test_what_cannot_be_read_now_is_not_damaged(one: Path, tmp_path: Path) -> None:
    path = place(one, tmp_path, 20)
    result = verify(path)
    refused = Defect("manifest.json", "", "readable", "it", "Input/output error", is_unread=True)
    (told,) = reject(tmp_path, [dataclasses.replace(result, problems=(refused,))])
    assert (told.aside, told.is_unread, told.is_left) == (None, True, False)
    assert path.is_dir()
