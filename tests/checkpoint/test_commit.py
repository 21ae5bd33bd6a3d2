"""Commit: no crash and no disagreement of workers makes a checkpoint that loads and lies."""

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
from dougong.checkpoint.repository import Additions, commit, expected_tensors, newest_valid, verify
from dougong.errors import CheckpointError
from dougong.parallel.plan import Inventory, TensorSpec
from tests.checkpoint.crash import run_dying
from tests.checkpoint.saving import NUM_EXPERTS, names_of, share, sites_of, state_of, tiny_model, write_parts


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


def test_small_files_go_along_and_take_the_place_of_the_models_own(
    written: tuple[Path, list[CheckpointPart]],
) -> None:
    root, parts = written
    given = {"tokenizer.json": b"{}", "generation_config.json": b"own", "additional_chat_templates/rag.jinja": b"rag"}
    directory = commit(root, 20, 1, parts, Additions(companions=given))
    assert {name: (directory / "model" / name).read_bytes() for name in given} == given
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
