"""Experts of real folders: all there, and every way of losing one is named with its layer and number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.errors import CheckpointError, ModelError, SourceError
from dougong.job.rule import EXPERT_COUNT_KEYS
from dougong.models.stored.folder import INDEX, SINGLE
from dougong.tools.experts.census import census, census_words
from dougong.tools.experts.contents import StoredPart, contents_of
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import save, tiny_model
from tests.families import FAMILIES

SITE = "model.layers.0.mlp.experts"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tiny_model("qwen3_moe", num_hidden_layers=2).save_pretrained(place)
    return place


def words_of(folder: Path) -> list[str]:
    return [str(finding) for finding in census(contents_of(folder))]


def changed(folder: Path, out: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy of the folder with other tensors."""
    shutil.copytree(folder, out)
    tensors = load_file(out / SINGLE)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / SINGLE)
    return out


def expert(number: int, part: str) -> str:
    return f"{SITE}.{number}.{part}.weight"


def drop(number: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for part in ("gate_proj", "up_proj", "down_proj"):
            del tensors[expert(number, part)]

    return change


def copy(first: int, second: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for part in ("gate_proj", "up_proj", "down_proj"):
            tensors[expert(second, part)] = tensors[expert(first, part)].clone()

    return change


def set_to(number: int, part: str, value: float | torch.Tensor) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        if isinstance(value, torch.Tensor):
            tensors[expert(number, part)] = value
        elif value:
            tensors[expert(number, part)][0, 0] = value
        else:
            tensors[expert(number, part)].zero_()

    return change


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_experts_are_found_as_it_is_saved(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    contents = contents_of(tmp_path)
    sites = [name for name, _ in model.named_modules() if name.endswith(".experts")]
    assert len(contents.sites) == len(sites)
    config = model.config.get_text_config()
    count = next(getattr(config, key) for key in EXPERT_COUNT_KEYS if getattr(config, key, None))
    assert {len(experts) for experts in contents.sites.values()} == {count}
    # LongCat-Flash's experts that compute nothing have rows, too, behind the others.
    owned = sum(p[:count].numel() for name, p in model.named_parameters() if ".experts." in name)
    found = [tensor for experts in contents.sites.values() for one in experts.values() for tensor in one.values()]
    assert sum(torch.Size(tensor.shape).numel() for tensor in found) == owned, (
        "no expert's tensor is left out, or taken in"
    )
    assert not census(contents)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop(3), [f"{SITE}: expert 3 of 8 is not there"]),
        (drop(7), [f"{SITE}: expert 7 of 8 is not there"]),
        (copy(1, 6), [f"{SITE}: experts 1, 6 are the same, bit by bit"]),
        (set_to(2, "up_proj", 0.0), [f"{SITE}: up_proj.weight of expert 2 is zero everywhere"]),
        (
            set_to(5, "down_proj", float("nan")),
            [f"{SITE}: down_proj.weight of expert 5: 1 value that is not finite (NaN or infinite)"],
        ),
        (lambda tensors: tensors.pop(expert(4, "gate_proj")), [f"{SITE}: expert 4 lacks gate_proj.weight"]),
        (
            set_to(0, "up_proj", torch.ones(2, 2)),
            [f"{SITE}: up_proj.weight of expert 0 is F32 [2, 2], of others F32 [32, 64]"],
        ),
    ],
)
def test_what_a_conversion_has_lost_is_named(
    change: Callable[[Tensors], None], words: list[str], folder: Path, tmp_path: Path
) -> None:
    assert words_of(changed(folder, tmp_path / "lossy", change)) == words


def test_more_experts_than_the_configuration_says_are_named(folder: Path, tmp_path: Path) -> None:
    def more(tensors: Tensors) -> None:
        for part in ("gate_proj", "up_proj", "down_proj"):
            tensors[expert(8, part)] = torch.randn_like(tensors[expert(0, part)])

    assert words_of(changed(folder, tmp_path / "more", more)) == [f"{SITE}: expert 8 is there, of 8 in other layers"]


def test_experts_that_have_a_row_each_are_looked_at_row_by_row(tmp_path: Path) -> None:
    """As gpt-oss is saved."""
    tiny_model("gpt_oss", num_hidden_layers=1).save_pretrained(tmp_path / "whole")
    name = next(name for name in load_file(tmp_path / "whole" / SINGLE) if name.endswith("experts.down_proj"))

    def change(tensors: Tensors) -> None:
        tensors[name][3] = 0
        tensors[name][5, 0, 0] = float("inf")

    site = name.removesuffix(".down_proj")
    assert words_of(changed(tmp_path / "whole", tmp_path / "lossy", change)) == [
        f"{site}: down_proj of expert 5: 1 value that is not finite (NaN or infinite)",
        f"{site}: down_proj of expert 3 is zero everywhere",
    ]


def test_of_a_checkpoint_nothing_is_read_again(tmp_path: Path) -> None:
    model = tiny_model("qwen3_moe", num_hidden_layers=2)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[4].zero_()
        for values in model.model.layers[0].mlp.experts.parameters():
            values[2] = values[0]
    path = save(tmp_path, model, num_workers=3)
    contents = contents_of(path)
    for file in path.glob("model/*.safetensors"):
        file.unlink()
    assert [str(finding) for finding in census(contents)] == [
        f"{SITE}: experts 0, 2 are the same, bit by bit",
        "model.layers.1.mlp.experts: down_proj.weight of expert 4 is zero everywhere",
    ]


def test_what_is_whole_is_said_in_words(folder: Path) -> None:
    said = "8 experts in each of 2 layers, no two of a layer alike, none of zeros, every value finite"
    assert census_words(contents_of(folder), allow_alike=False) == said
    assert "alike" not in census_words(contents_of(folder), allow_alike=True)


def test_what_is_no_folder_or_not_whole_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is neither a checkpoint nor a Hugging Face folder"):
        contents_of(tmp_path)
    cut = changed(folder, tmp_path / "cut", lambda tensors: None)
    (cut / SINGLE).write_bytes((cut / SINGLE).read_bytes()[:-5])
    with pytest.raises(ModelError, match=rf"^{cut / SINGLE}: is cut short"):
        contents_of(cut)
    (cut / SINGLE).unlink()
    (cut / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(ModelError, match="names 1 files, of which 1 are not there"):
        contents_of(cut)
    broken = StoredPart("a", "F32", (1 << 18,), ((folder / "config.json", 0, 1 << 20),))
    with pytest.raises(CheckpointError, match="config.json: a: the file ends at byte"):
        broken.read()
