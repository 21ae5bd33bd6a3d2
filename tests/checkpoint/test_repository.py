"""Commit, find, prune: no crash and no disagreement makes a checkpoint that loads and lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dougong.checkpoint.directories import list_committed, list_pending
from dougong.checkpoint.manifest import Manifest
from dougong.checkpoint.part import CheckpointPart, StateShape
from dougong.checkpoint.repository import Additions, commit, expected_tensors, newest_valid, prune, verify
from dougong.errors import CheckpointError
from dougong.parallel.plan import Inventory, TensorSpec
from tests.checkpoint.crash import run_dying
from tests.checkpoint.saving import NUM_EXPERTS, names_of, save, share, sites_of, state_of, tiny_model, write_parts


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("gpt_oss", num_hidden_layers=2)


@pytest.fixture(scope="module")
def pending(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CheckpointPart]]:
    """Two workers' durable parts of step 20, generation 1, not committed."""
    root = tmp_path_factory.mktemp("pending")
    names = names_of(model)
    state = state_of(model, names)
    return root, write_parts(root, names, [share(state, w, 2) for w in range(2)])


@pytest.fixture
def written(pending: tuple[Path, list[CheckpointPart]], tmp_path: Path) -> tuple[Path, list[CheckpointPart]]:
    root = Path(shutil.copytree(pending[0], tmp_path / "checkpoints"))
    return root, list(pending[1])


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


def inventory_of(model: Any) -> Inventory:
    sites = sites_of(model)
    dense = [
        TensorSpec(name, tuple(tensor.shape), True)
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[0] not in sites
    ]
    experts = tuple((n, tuple(p.shape[1:])) for n, p in model.get_submodule(sites[0]).named_parameters())
    return Inventory("gpt_oss", tuple(dense), tuple(sites), NUM_EXPERTS, experts)


def test_a_commit_is_valid_and_keeps_its_metadata(written: tuple[Path, list[CheckpointPart]], model: Any) -> None:
    root, parts = written
    metadata = {"seed": 1234, "data": {"step": 20, "samples": 640}}
    expected = expected_tensors(inventory_of(model), ("exp_avg", "exp_avg_sq"))
    directory = commit(root, 20, 1, parts, Additions(metadata, expected))
    assert directory == root / "step-000020"
    assert newest_valid(root) == directory
    assert list_pending(root) == []
    manifest = Manifest.load(directory)
    assert (manifest.step, manifest.generation) == (20, 1)
    assert manifest.metadata == {"seed": 1234, "data": {"step": 20, "samples": 640}}


def on_the_wire(part: CheckpointPart) -> CheckpointPart:
    return CheckpointPart.from_json(json.loads(json.dumps(part.to_json())))


def test_parts_survive_the_wire(written: tuple[Path, list[CheckpointPart]]) -> None:
    root, parts = written
    assert verify(commit(root, 20, 1, [on_the_wire(part) for part in parts])).ok


def test_a_tokenizer_goes_along(written: tuple[Path, list[CheckpointPart]], tmp_path: Path) -> None:
    root, parts = written
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "pytorch_model.bin"):
        (folder / name).write_text("{}")
    directory = commit(root, 20, 1, parts, Additions(tokenizer=folder))
    assert {p.name for p in (directory / "model").glob("tokenizer*")} == {"tokenizer.json", "tokenizer_config.json"}
    assert not list((directory / "model").glob("*.bin"))
    assert verify(directory).ok


def without_worker(parts: list[CheckpointPart]) -> None:
    del parts[1]


def twice(parts: list[CheckpointPart]) -> None:
    parts.append(parts[0])


def same_tensor(parts: list[CheckpointPart]) -> None:
    parts[1] = replace(parts[1], state=(*parts[1].state, parts[0].state[0]))


def another_step(parts: list[CheckpointPart]) -> None:
    parts[1] = replace(parts[1], step=40)


def another_generation(parts: list[CheckpointPart]) -> None:
    parts[1] = replace(parts[1], generation=2)


def with_file(part: CheckpointPart, file: str, **changes: Any) -> CheckpointPart:
    """A part that says something else of one of its files."""
    return replace(part, files={**part.files, file: replace(part.files[file], **changes)})


def shared_file(part: CheckpointPart) -> str:
    return next(file for file in part.files if "experts" in file)


def a_row_missing(parts: list[CheckpointPart]) -> None:
    file = shared_file(parts[0])
    parts[0] = with_file(parts[0], file, entries=parts[0].files[file].entries[:-1])


def a_row_twice(parts: list[CheckpointPart]) -> None:
    file = shared_file(parts[0])
    again = parts[0].files[file].entries[0]
    parts[1] = with_file(parts[1], file, entries=(*parts[1].files[file].entries, again))


def another_size(parts: list[CheckpointPart]) -> None:
    file = shared_file(parts[1])
    parts[1] = with_file(parts[1], file, num_bytes=parts[1].files[file].num_bytes + 8)


def moved_tensor(parts: list[CheckpointPart]) -> None:
    name = parts[0].files["model/model-rank00000.safetensors"].entries[0].name
    file = "model/model-rank00001.safetensors"
    first, *others = parts[1].files[file].entries
    parts[1] = with_file(parts[1], file, entries=(replace(first, name=name), *others))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_worker, "belong to nobody|end at byte|no worker wrote it"),
        (twice, "east/0 sent more than one part"),
        (same_tensor, "two workers wrote the same tensor"),
        (another_step, "worker east/1 sent a part of step 40"),
        (another_generation, "worker east/1 sent a part of step 20, generation 2"),
        (a_row_missing, "belong to nobody"),
        (a_row_twice, "are written twice"),
        (another_size, "disagree on its size"),
        (moved_tensor, "a tensor has one owner"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    spoil: Any, message: str, written: tuple[Path, list[CheckpointPart]]
) -> None:
    root, parts = written
    spoil(parts)
    with pytest.raises(CheckpointError, match=message):
        commit(root, 20, 1, parts)
    assert list_committed(root) == []
    assert newest_valid(root) is None


def test_a_tensor_that_nobody_wrote_is_named(written: tuple[Path, list[CheckpointPart]]) -> None:
    root, parts = written
    with pytest.raises(CheckpointError, match=r"exp_avg model\.extra\.weight: no worker wrote it"):
        commit(root, 20, 1, parts, Additions(expected=[StateShape("exp_avg", "model.extra.weight", (3,))]))
    with pytest.raises(CheckpointError, match=r"written as \[64\], expected shape \[65\]"):
        commit(root, 20, 1, parts, Additions(expected=[StateShape("model", "model.norm.weight", (65,))]))


def test_no_part_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no part"):
        commit(tmp_path, 20, 1, [])


def test_files_that_are_not_there_are_refused(written: tuple[Path, list[CheckpointPart]]) -> None:
    root, parts = written
    path = root / "pending/step-000020.g1/model/model-rank00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="its writers reported"):
        commit(root, 20, 1, parts)
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        commit(root, 20, 1, parts)
    assert newest_valid(root) is None


def test_a_controller_killed_at_any_call_leaves_none_or_a_whole_one(
    pending: tuple[Path, list[CheckpointPart]], tmp_path: Path
) -> None:
    source, parts = pending
    outcomes = []
    for at_call in range(1, 500):
        root = Path(shutil.copytree(source, tmp_path / str(at_call)))
        code = run_dying(lambda root=root: commit(root, 20, 1, parts), at_call)
        found = newest_valid(root)
        assert found is not None or list_committed(root) == []
        outcomes.append(found is not None)
        shutil.rmtree(root)
        if code == 0:
            break
        assert code == -9
    assert outcomes[-1]
    assert outcomes == sorted(outcomes), "once committed, always committed"
    assert outcomes.count(False) > 10


def test_the_newest_valid_one_is_found_and_others_are_reported(one: Path, tmp_path: Path) -> None:
    for step in (20, 40, 60):
        place(one, tmp_path, step)
    damage(tmp_path / "step-000060")
    (tmp_path / "step-000040/manifest.json").unlink()
    reasons: dict[str, str] = {}
    found = newest_valid(tmp_path, lambda path, reason: reasons.update({path.name: reason}))
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
        ([40], 2, [60, 80]),
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
    assert [int(p.name[5:]) for p in pruned.invalid] == [s for s in sorted(damaged, reverse=True) if s in left]
    assert not list(tmp_path.glob("pending/trash-*"))


def test_prune_trusts_only_what_it_is_told_to_trust(one: Path, tmp_path: Path) -> None:
    for step in (20, 40):
        place(one, tmp_path, step)
    damage(tmp_path / "step-000040")
    assert prune(tmp_path, 1).kept == (tmp_path / "step-000020",)
    assert prune(tmp_path, 1, trusted=["step-000040"]).kept == (tmp_path / "step-000040",)


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


def test_a_deletion_killed_at_any_call_never_leaves_half_a_checkpoint(one: Path, tmp_path: Path) -> None:
    for at_call in range(1, 200):
        root = tmp_path / str(at_call)
        for step in (20, 40):
            place(one, root, step)
        code = run_dying(lambda root=root: prune(root, 1, trusted=["step-000040"]), at_call)
        assert all(verify(p.path).ok for p in list_committed(root))
        assert newest_valid(root) == root / "step-000040"
        if code == 0:
            break
        prune(root, 1)
        assert steps_left(root) == [40]
        assert not list(root.glob("pending/trash-*"))
        shutil.rmtree(root)
    assert code == 0
