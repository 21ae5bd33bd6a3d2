"""What is not there at all, of real families' folders: it is told, and nothing is told of whole ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.models.stored.folder import SINGLE
from dougong.tools.experts.absent import absent, doubles, layer_of
from dougong.tools.experts.contents import contents_of
from safetensors.torch import load_file, save_file
from tests.checkpoint.saving import tiny_model
from tests.quantised_folders import to_fp8

Tensors = dict[str, torch.Tensor]
LAYERS = "model.layers"


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral", "gpt_oss"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    tiny_model(request.param, num_hidden_layers=2).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("qwen")
    tiny_model("qwen3_moe", num_hidden_layers=2).save_pretrained(place)
    return place


def without(folder: Path, out: Path, names: str) -> Path:
    """A copy without the tensors whose names have this in them."""
    return changed(folder, out, lambda tensors: {n: t for n, t in tensors.items() if not re.search(names, n)})


def changed(folder: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(folder, out)
    save_file(change(load_file(out / SINGLE)), out / SINGLE)
    return out


def configured(folder: Path, out: Path, values: dict[str, object]) -> Path:
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **values}))
    return out


def words_of(folder: Path) -> list[str]:
    return [str(flaw) for flaw in absent(contents_of(folder))]


def test_of_a_whole_folder_nothing_is_said(folder: Path) -> None:
    assert not words_of(folder) and not list(doubles(contents_of(folder)))


def test_a_layer_with_a_router_and_no_experts_is_told(folder: Path, tmp_path: Path) -> None:
    (words,) = words_of(without(folder, tmp_path / "lossy", r"layers\.1\..*\.experts\."))
    assert re.fullmatch(r"model.layers.1: has a router \(\S+(gate|router).weight\), but none of its experts.*", words)


def test_no_experts_at_all_where_the_configuration_has_some_are_told(folder: Path, tmp_path: Path) -> None:
    assert words_of(without(folder, tmp_path / "lossy", r"\.experts\.")) == [
        "config.json: says 8 experts in a layer, and none is there"
    ]


def test_a_layer_that_is_gone_is_told(folder: Path, tmp_path: Path) -> None:
    assert words_of(without(folder, tmp_path / "lossy", r"layers\.1\.")) == [
        "model.layers: no tensor of layer 1 is there, of 2 that config.json says"
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("down_proj", "no expert has its down_proj"),
        ("up_proj", "no expert has its up_proj"),
        ("gate_proj", "no expert has its gate_proj"),
    ],
)
def test_a_tensor_that_is_gone_from_every_expert_is_told(names: str, words: str, qwen: Path, tmp_path: Path) -> None:
    found = words_of(without(qwen, tmp_path / "lossy", rf"experts\..*{names}"))
    assert found == [f"{LAYERS}.{layer}.mlp.experts: {words}" for layer in range(2)]


@pytest.mark.parametrize("lost", ["w1", "w2", "w3"])
def test_it_is_told_by_the_name_that_the_family_has(lost: str, tmp_path: Path) -> None:
    tiny_model("mixtral", num_hidden_layers=1).save_pretrained(tmp_path / "whole")
    (words,) = words_of(without(tmp_path / "whole", tmp_path / "lossy", rf"experts\..*\b{lost}\b"))
    assert words.endswith(f"no expert has its {lost}")


def test_scales_and_biases_that_are_gone_from_a_layer_are_told(tmp_path: Path) -> None:
    tiny_model("gpt_oss", num_hidden_layers=2).save_pretrained(tmp_path / "whole")
    lossy = without(tmp_path / "whole", tmp_path / "lossy", r"1\.mlp\.experts\.down_proj_bias")
    assert words_of(lossy) == [
        "model.layers.1.mlp.experts: no expert has its down_proj_bias, as those of other layers have"
    ]

    def packed(tensors: Tensors) -> Tensors:
        blocks = torch.ones(8, 4, 2, 16, dtype=torch.uint8)
        down = {f"{LAYERS}.{n}.mlp.experts.down_proj_blocks": blocks.clone() for n in range(2)}
        return {**{n: t for n, t in tensors.items() if not n.endswith("experts.down_proj")}, **down}

    assert words_of(changed(tmp_path / "whole", tmp_path / "packed", packed))[0] == (
        "model.layers.0.mlp.experts: no expert has its down_proj_scales, without which down_proj_blocks has no values"
    )


def test_fp8_values_without_any_scale_are_told(qwen: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen, tmp_path / "eights")
    to_fp8(tmp_path / "eights")
    assert not words_of(tmp_path / "eights")
    found = words_of(without(tmp_path / "eights", tmp_path / "lossy", r"layers\.1\..*experts.*scale_inv"))
    assert found[0] == (
        "model.layers.1.mlp.experts: no expert has a scale, without which down_proj.weight has no values"
    )


def test_two_numbers_of_experts_are_told(qwen: Path, tmp_path: Path) -> None:
    folder = configured(qwen, tmp_path / "two", {"num_experts": 8, "num_local_experts": 7})
    assert words_of(folder) == [
        "config.json: says of a layer's experts num_experts: 8, num_local_experts: 7; make it one number"
    ]


@pytest.mark.parametrize(
    "values",
    [{"first_k_dense_replace": 2}, {"mlp_layer_types": ["dense", "dense"]}, {"enable_moe_block": False}],
)
def test_a_model_without_layers_of_experts_may_say_their_number(
    values: dict[str, object], qwen: Path, tmp_path: Path
) -> None:
    lossy = without(qwen, tmp_path / "dense", r"experts|mlp\.gate\.")
    assert words_of(lossy)
    assert not words_of(configured(lossy, tmp_path / "said", values))


def test_layers_are_counted_as_the_family_counts_them(tmp_path: Path) -> None:
    tiny_model("longcat_flash").save_pretrained(tmp_path / "whole")
    both = configured(tmp_path / "whole", tmp_path / "both", {"num_layers": 2, "num_hidden_layers": 4})
    assert not words_of(both)
    assert words_of(without(both, tmp_path / "lossy", r"layers\.1\."))[0].startswith(
        "model.layers: no tensor of layer 1"
    )


def test_experts_in_a_form_that_is_not_known_are_no_loss(tmp_path: Path) -> None:
    """As DBRX has them, end to end in a matrix."""
    tensors = {
        "transformer.blocks.0.ffn.experts.mlp.w1": torch.ones(16, 4),
        "transformer.blocks.0.ffn.router.layer.weight": torch.ones(8, 4),
    }
    save_file(tensors, tmp_path / SINGLE)
    (tmp_path / "config.json").write_text(json.dumps({"ffn_config": {"moe_num_experts": 8}}))
    assert not words_of(tmp_path)


def test_what_is_there_twice_is_told(qwen: Path, tmp_path: Path) -> None:
    site = f"{LAYERS}.0.mlp.experts"

    def both(tensors: Tensors) -> Tensors:
        return {**tensors, f"{site}.07.up_proj.weight": torch.ones(32, 64), f"{site}.down_proj": torch.ones(8, 64, 32)}

    found = [str(flaw) for flaw in doubles(contents_of(changed(qwen, tmp_path / "both", both)))]
    assert sorted(found) == [
        f"{site}.07.up_proj.weight: is the same tensor of the same expert as {site}.7.up_proj.weight; remove one of "
        "them",
        f"{site}: has down_proj and down_proj.weight, each of which is an expert's down",
    ]


def test_a_layer_is_what_stands_before_its_last_number() -> None:
    assert layer_of("model.layers.3.mlp.gate.weight") == "model.layers.3"
    assert layer_of("model.norm.weight") == ""
