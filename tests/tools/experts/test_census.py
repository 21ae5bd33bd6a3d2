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
from tests.jobs import make_job
from tests.reference import reference_model
from tests.tiny import tiny_values

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


def cut(*endings: str) -> Callable[[Tensors], None]:
    """Tensors with a row for each expert lose the last one."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(endings)]:
            tensors[name] = tensors[name][:-1]

    return change


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "llama4_text", "granitemoe", "aria_text", "longcat_flash"])
def test_a_row_that_is_lost_is_an_expert_that_is_lost(family: str, tmp_path: Path) -> None:
    if family in FAMILIES:
        model = tiny_model(family)
    else:
        model = reference_model(make_job(model={"family": family, "config": tiny_values(family)}))
    model.save_pretrained(tmp_path / "live", save_original_format=False)
    assert not [flaw for flaw in census(contents_of(tmp_path / "live")) if not flaw.is_alike]
    idle = model.config.to_dict().get("zero_expert_num") or 0

    def lose(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if ".experts." in name and tensor.dim() > 1:
                tensors[name] = tensor[: len(tensor) - (1 + idle if len(tensor) > 8 else 1)]

    found = words_of(changed(tmp_path / "live", tmp_path / "lossy", lose))
    sites = contents_of(tmp_path / "live").sites
    assert found[: len(sites)] == [f"{site}: expert 7 of 8 is not there" for site in sites]


def test_a_row_of_one_tensor_or_one_layer_is_missed(tmp_path: Path) -> None:
    tiny_model("gpt_oss", num_hidden_layers=2).save_pretrained(tmp_path / "whole")
    site = "model.layers.1.mlp.experts"
    one = changed(tmp_path / "whole", tmp_path / "one", cut(f"{site}.gate_up_proj_bias"))
    assert words_of(one) == [f"{site}: expert 7 lacks gate_up_proj_bias"]
    parts = [f"{site}.{part}{end}" for part in ("gate_up_proj", "down_proj") for end in ("", "_bias")]
    assert words_of(changed(tmp_path / "whole", tmp_path / "layer", cut(*parts))) == [
        f"{site}: expert 7 of 8 is not there"
    ]


def test_mxfp4_blocks_and_scales_have_a_row_each(tmp_path: Path) -> None:
    site = "model.layers.0.mlp.experts"
    made = torch.Generator().manual_seed(0)
    tensors = {}
    for part in ("gate_up_proj", "down_proj"):
        tensors[f"{site}.{part}_blocks"] = torch.randint(256, (8, 4, 2, 16), generator=made, dtype=torch.uint8)
        tensors[f"{site}.{part}_scales"] = torch.randint(100, 140, (8, 4, 2), generator=made, dtype=torch.uint8)
    (tmp_path / "whole").mkdir()
    save_file(tensors, tmp_path / "whole" / SINGLE)
    (tmp_path / "whole" / "config.json").write_text(json.dumps({"num_local_experts": 8}))
    assert not words_of(tmp_path / "whole")
    lost = changed(tmp_path / "whole", tmp_path / "lost", cut("_blocks", "_scales"))
    assert words_of(lost) == [f"{site}: expert 7 of 8 is not there"]
    scales = changed(tmp_path / "whole", tmp_path / "scales", cut("up_proj_scales"))
    assert words_of(scales) == [f"{site}: expert 7 lacks gate_up_proj_scales"]

    def damage(tensors: Tensors) -> None:
        tensors[f"{site}.down_proj_scales"][2, 0, 1] = 255
        tensors[f"{site}.down_proj_blocks"][4] = 0x80

    assert words_of(changed(tmp_path / "whole", tmp_path / "bad", damage)) == [
        f"{site}: down_proj_scales of expert 2: 1 value that is not finite (NaN or infinite)",
        f"{site}: down_proj_blocks of expert 4 is zero everywhere",
    ]


def test_a_scale_of_zero_makes_zeros(folder: Path, tmp_path: Path) -> None:
    def scaled(tensors: Tensors) -> None:
        for number in range(8):
            tensors[f"{SITE}.{number}.up_proj.weight_scale"] = torch.tensor([float(number != 3)])

    assert words_of(changed(folder, tmp_path / "scaled", scaled)) == [
        f"{SITE}: up_proj.weight_scale of expert 3 is zero everywhere"
    ]


def test_minus_zero_is_zero(folder: Path, tmp_path: Path) -> None:
    def negated(tensors: Tensors) -> None:
        tensors[expert(2, "up_proj")].zero_().neg_()

    assert words_of(changed(folder, tmp_path / "zero", negated)) == [
        f"{SITE}: up_proj.weight of expert 2 is zero everywhere"
    ]


def test_the_text_s_number_of_experts_counts(folder: Path, tmp_path: Path) -> None:
    lost = changed(folder, tmp_path / "lost", drop(7))
    parts = {"text_config": {"num_experts": 8}, "vision_config": {"num_local_experts": 7}}
    (lost / "config.json").write_text(json.dumps(parts))
    assert words_of(lost) == [f"{SITE}: expert 7 of 8 is not there"]


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
    said = "8 experts in each of 2 layers, no two of a layer alike, none of zeros, every value of an expert finite"
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
