"""Which tensors of a folder are quantised, and what they are when read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.models.stored.folder import SINGLE, check_folder, stored_tensors
from dougong.models.stored.quantised import QuantisedTensor, is_scale, quantised_words
from safetensors.torch import save_file
from tests.quantised_folders import fp8_pair

E4M3 = torch.float8_e4m3fn
Tensors = dict[str, torch.Tensor]


def folder_of(folder: Path, tensors: Tensors, **said: Any) -> Path:
    values = {"quant_method": "fp8", "weight_block_size": [4, 4], **said}
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", "quantization_config": values}))
    save_file(tensors, folder / SINGLE)
    return folder


def values(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape).to(E4M3)


@pytest.mark.parametrize("scale", ["w.weight_scale_inv", "w.scale", "w.qscale_weight"])
def test_scales_are_known_by_the_names_that_releases_have(scale: str, tmp_path: Path) -> None:
    tensors = {"w.weight": values(8, 6), scale: torch.ones(2, 2), "norm.weight": torch.ones(6)}
    tensors["w.activation_scale"] = torch.ones(1)
    found = stored_tensors(folder_of(tmp_path, tensors))
    assert list(found) == ["norm.weight", "w.weight"] or set(found) == {"norm.weight", "w.weight"}
    read = found["w.weight"]
    assert isinstance(read, QuantisedTensor) and (read.dtype, read.shape, read.block) == ("F32", (8, 6), (4, 4))
    (words,) = quantised_words(found.values())
    assert words.startswith("1 tensors of FP8 blocks of 4 x 4 (of 2) are read as float32")
    check_folder(tmp_path)


@pytest.mark.parametrize(
    ("shape", "scales", "block"),
    [
        ((9, 6), (3, 2), (4, 4)),  # the last block of rows is cut short, as DeepSeek-V3's 576 rows are
        ((8, 6), (), (8, 6)),
        ((8, 6), (1,), (8, 6)),
        ((2, 8, 6), (2, 2, 2), (4, 4)),
    ],
)
def test_blocks_are_the_configurations_or_what_the_scales_shape_says(
    shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    tensors = {"w.weight": values(*shape), "w.weight_scale_inv": torch.ones(scales)}
    read = stored_tensors(folder_of(tmp_path, tensors))["w.weight"]
    assert isinstance(read, QuantisedTensor) and read.block == block


WRONG: list[tuple[Tensors, str]] = [
    ({"w.weight": values(9, 6), "w.weight_scale_inv": torch.ones(2, 2)}, "expected blocks of 4 x 4"),
    ({"w.weight": values(2, 8, 6), "w.weight_scale_inv": torch.ones(3, 2, 2)}, "expected blocks of 4 x 4"),
    ({"w.weight": values(2, 8, 6), "w.weight_scale_inv": torch.ones(1)}, "expected blocks of 4 x 4"),
    ({"w.weight": values(8), "w.weight_scale_inv": torch.ones(2)}, "expected a matrix with scales of floats"),
    (
        {"w.weight": values(8, 6), "w.weight_scale_inv": torch.ones(2, 2, dtype=torch.int32)},
        "w.weight of F8_E4M3 [8, 6] has scales w.weight_scale_inv of I32 [2, 2]",
    ),
    ({"w.weight": values(8, 6)}, "w.weight (F8_E4M3) is one of a pair of values and scales"),
    (
        {"w.weight": torch.ones(8, 6), "w.weight_scale_inv": torch.ones(2, 2)},
        "w.weight_scale_inv (F32) is one of a pair of values and scales",
    ),
]


@pytest.mark.parametrize(("tensors", "message"), WRONG)
def test_scales_that_do_not_fit_are_refused_by_both_names(tensors: Tensors, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(message)) as refused:
        stored_tensors(folder_of(tmp_path, tensors))
    assert SINGLE in str(refused.value) and "download it again" in str(refused.value)


@pytest.mark.parametrize(("scales", "block"), [((8, 1), (1, 6)), ((4, 3), (2, 2))])
def test_where_no_block_is_said_the_scales_say_it(
    scales: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    tensors = {"w.weight": values(8, 6), "w.weight_scale_inv": torch.ones(scales)}
    read = stored_tensors(folder_of(tmp_path, tensors, weight_block_size=None))["w.weight"]
    assert isinstance(read, QuantisedTensor) and read.block == block


@pytest.mark.parametrize("said", ["128", [16.0, 24.0], {}, [0, 0], [True, True], [128]])
def test_a_block_that_is_none_is_refused_with_what_was_found(said: Any, tmp_path: Path) -> None:
    folder_of(tmp_path, {"w.weight": torch.ones(2)}, weight_block_size=said)
    with pytest.raises(ModelError, match=re.escape(f"weight_block_size: {json.dumps(said)} (quantization_config)")):
        check_folder(tmp_path)


def test_two_ways_of_quantising_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, {"w.weight": torch.ones(2)})
    config = json.loads((tmp_path / "config.json").read_text())
    config["compression_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantised in 2 ways \(fp8, mxfp4\)"):
        check_folder(tmp_path)


def test_scales_of_caches_are_left_out(tmp_path: Path) -> None:
    tensors = {"w.weight": values(8, 6), "w.weight_scale_inv": torch.ones(2, 2), "k_scale": torch.ones(1)}
    assert list(stored_tensors(folder_of(tmp_path, tensors))) == ["w.weight"]


@pytest.mark.parametrize("kept", ["e.down_proj_blocks", "e.down_proj_scales"])
def test_half_of_an_mxfp4_pair_is_refused_by_name(kept: str, tmp_path: Path) -> None:
    folder_of(tmp_path, {kept: torch.zeros(2, 6, 3, dtype=torch.uint8)}, quant_method="mxfp4")
    with pytest.raises(ModelError, match=rf"{kept} \(U8\) is one of a pair .* download it again"):
        check_folder(tmp_path)


def test_a_plain_tensor_beside_its_own_blocks_is_refused(tmp_path: Path) -> None:
    pair = {"e.w_blocks": torch.zeros(2, 6, 3, 16, dtype=torch.uint8), "e.w_scales": torch.zeros(2, 6, 3).byte()}
    folder_of(tmp_path, {**pair, "e.w": torch.ones(2, 96, 6)}, quant_method="mxfp4")
    with pytest.raises(ModelError, match="holds e.w_blocks, and e.w is there as it is"):
        check_folder(tmp_path)


def test_mxfp4_is_read_under_the_name_of_what_comes_of_it(tmp_path: Path) -> None:
    blocks, scales = torch.zeros(2, 6, 3, 16, dtype=torch.uint8), torch.zeros(2, 6, 3, dtype=torch.uint8)
    folder_of(tmp_path, {"e.down_proj_blocks": blocks, "e.down_proj_scales": scales}, quant_method="mxfp4")
    found = stored_tensors(tmp_path)
    assert found["e.down_proj"].shape == (2, 96, 6) and list(found) == ["e.down_proj"]
    assert next(iter(quantised_words(found.values()))).startswith("1 tensors of MXFP4 blocks of 32 (of 1)")
    folder_of(tmp_path, {"e.down_proj_blocks": blocks, "e.down_proj_scales": scales[:1]}, quant_method="mxfp4")
    with pytest.raises(ModelError, match=r"expected \[experts, rows, groups, 16\] of U8"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("place", ["quantization_config", "compression_config", "text_config"])
def test_another_method_is_refused_by_its_name_wherever_it_is_said(place: str, tmp_path: Path) -> None:
    said: dict[str, Any] = {"quant_method": "compressed-tensors"}
    said = {"quantization_config": said} if place == "text_config" else said
    folder_of(tmp_path, {"w.weight": torch.ones(2)})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", place: said}))
    with pytest.raises(ModelError, match=r"\(compressed-tensors, by its config.json\).*read are fp8, mxfp8, mxfp4"):
        check_folder(tmp_path)


NAMES = {
    "a.scale": True, "k_scale": True, "w.absmax": True, "a.weight": False, "scaled.weight": False, "rescale": False,
}  # fmt: skip


@pytest.mark.parametrize(("name", "scale"), NAMES.items())
def test_a_scale_is_known_by_its_last_word(name: str, scale: bool) -> None:
    assert is_scale(name) == scale


def test_values_that_are_folded_have_a_scale_for_each_block() -> None:
    stored, scales = fp8_pair(torch.randn(20, 30), (16, 24))
    assert stored.shape == (20, 30) and scales.shape == (2, 2)
