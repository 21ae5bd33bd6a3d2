"""Weights from a Hugging Face folder, tensor by tensor."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.checkpoint.huggingface import Names
from dougong.errors import ModelError
from dougong.job.schema import Model
from dougong.models.build import build_on_meta
from dougong.models.configs.load import load_config
from dougong.models.sites import find_sites
from dougong.models.stored.weights import WeightsFolder
from safetensors.torch import load_file, save_file
from tests.families import FAMILIES, tiny_config
from tests.folders import change_weights, small_folder
from tests.quantised_folders import BLOCK, to_fp8, to_mxfp4, unfold
from torch import Tensor
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config


def saved(folder: Path, family: str, dtype: torch.dtype = torch.float32, **how: Any) -> dict[str, Tensor]:
    """Write a folder as a user would; returns the live tensors, one expert's by one."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=dtype)
        model.save_pretrained(folder, **how)
    return live_of(model)


def live_of(model: Any) -> dict[str, Tensor]:
    """A model's tensors, one expert's by one."""
    live: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        rows = list(tensor) if name.rpartition(".")[0].endswith(".experts") else None
        live |= {name: tensor} if rows is None else {f"{name}[{e}]": row for e, row in enumerate(rows)}
    return live


def opened(folder: Path) -> WeightsFolder:
    model = build_on_meta(load_config(Model(path=str(folder)), None))
    sites = find_sites(model)
    return WeightsFolder(folder, Names.of(model, [s.name for s in sites], sites[0].num_experts))


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "200KB"}], ids=["one file", "several files"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_comes_back_bit_by_bit(family: str, how: dict[str, Any], tmp_path: Path) -> None:
    live = saved(tmp_path, family, **how)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 if how else True
    folder = opened(tmp_path)
    for name, tensor in live.items():
        assert torch.equal(folder.read(name), tensor), name


@pytest.mark.parametrize(("name", "numel"), [("model.embed_tokens.weight", 16384), ("model.norm.weight", 64)])
def test_a_piece_is_read_by_its_name(name: str, numel: int, tmp_path: Path) -> None:
    live, folder = saved(tmp_path, "qwen3_moe"), opened(tmp_path)
    for begin, end in ((0, numel), (0, 1), (numel - 1, numel), (5, 60), (numel // 2 - 3, numel // 2 + 2)):
        assert torch.equal(folder.read(f"{name}[{begin}:{end}]"), live[name].view(-1)[begin:end])
    for begin, end in ((0, numel + 1), (5, 5)):
        with pytest.raises(ModelError, match=rf"\[{begin}:{end}\]: the model's tensor has shape"):
            folder.read(f"{name}[{begin}:{end}]")


def test_what_is_not_finite_in_a_piece_is_told_by_its_place(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][3, 7] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    folder = opened(tmp_path)
    assert len(folder.read("model.embed_tokens.weight[0:199]")) == 199
    with pytest.raises(ModelError, match=r"in 1 of its values, the first at \[3, 7\]: nan"):
        folder.read("model.embed_tokens.weight[190:300]")


def test_a_base_models_folder_is_read_by_its_shorter_names(tmp_path: Path) -> None:
    live = saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    folder = opened(tmp_path)
    for name, tensor in live.items():
        assert torch.equal(folder.read(name), tensor), name


def test_half_precision_folders_are_read_as_float32(tmp_path: Path) -> None:
    live = saved(tmp_path, "qwen3_moe", torch.bfloat16)
    folder = opened(tmp_path)
    for name in ("model.norm.weight", "model.layers.1.mlp.experts.down_proj[3]"):
        value = folder.read(name)
        assert value.dtype == torch.float32 and torch.equal(value, live[name].float())


def test_a_folder_without_a_tensor_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.experts.3.down_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    folder = opened(tmp_path)
    assert folder.read("model.layers.1.mlp.experts.down_proj[2]").shape == (64, 32)
    message = r"holds no tensor .*experts.3.down_proj.weight \(for model.layers.1.mlp.experts.down_proj\[3\]\)"
    with pytest.raises(ModelError, match=message):
        folder.read("model.layers.1.mlp.experts.down_proj[3]")


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(1)  # would spread over the whole tensor if it were copied
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.norm.weight has shape \(1,\), but the model has \(64,\)"):
        opened(tmp_path).read("model.norm.weight")


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])  # one tensor per expert; one row per expert
def test_experts_of_another_shape_are_refused_by_name(family: str, tmp_path: Path) -> None:
    live = saved(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = {"moe_intermediate_size": 16, "intermediate_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config | {k: v for k, v in sizes.items() if k in config}))
    expert = next(n for n in live if n.endswith("down_proj[3]"))
    with pytest.raises(ModelError, match=r"down_proj.* has shape .*; its weights are of another model"):
        opened(tmp_path).read(expert)


@pytest.mark.parametrize("stored", ["model.embed_tokens.weight", "lm_head.weight", "embed_tokens.weight"])
def test_of_two_tied_tensors_either_may_be_stored(stored: str, tmp_path: Path) -> None:
    small_folder(tmp_path, tie_word_embeddings=True)
    embedding = "model.embed_tokens.weight"
    tensors = change_weights(tmp_path, lambda tensors: tensors.update({stored: tensors.pop(embedding)}))
    folder = opened(tmp_path)
    assert folder.check() == ()
    assert torch.equal(folder.read(embedding), tensors[stored])


def test_quantised_folders_are_refused(tmp_path: Path) -> None:
    """Reading their integers or 8-bit floats without their scales would train another model."""
    saved(tmp_path, "deepseek_v3")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="holds quantised weights"):
        opened(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    tiny_config("qwen3_moe").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds neither model.safetensors.index.json nor model.safetensors"):
        opened(tmp_path)


EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, float("nan")), (torch.bfloat16, float("inf")), (torch.float64, 1e300)]
)
def test_a_tensor_that_is_not_finite_is_refused_by_name(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    """Also one that float32 cannot hold."""
    saved(tmp_path, "qwen3_moe")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors[EXPERT] = tensors[EXPERT].to(dtype)
    tensors[EXPERT][0, 2] = value
    save_file(tensors, file, metadata={"format": "pt"})
    folder = opened(tmp_path)
    folder.read("model.layers.1.mlp.experts.down_proj[2]")
    with pytest.raises(ModelError, match="is not finite .* in 1 of its values, the first at .0, 2.: ") as error:
        folder.read("model.layers.1.mlp.experts.down_proj[3]")
    assert EXPERT in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt_oss"])
def test_a_folder_in_fp8_reads_as_transformers_dequantises_it(family: str, tmp_path: Path) -> None:
    saved(tmp_path, family, torch.bfloat16)
    to_fp8(tmp_path, (8, 8))
    said = FineGrainedFP8Config(dequantize=True, weight_block_size=(8, 8))
    compare_with_transformers(tmp_path, said)


def test_a_folder_in_mxfp4_reads_as_transformers_dequantises_it(tmp_path: Path) -> None:
    saved(tmp_path, "gpt_oss", torch.bfloat16)
    to_mxfp4(tmp_path)
    compare_with_transformers(tmp_path, Mxfp4Config(dequantize=True))


def compare_with_transformers(path: Path, said: Any) -> None:
    """Bit by bit, in float32 and rounded to bfloat16 as an export is."""
    folder = opened(path)
    assert folder.check() == ()
    for dtype in (torch.float32, torch.bfloat16):
        loaded, told = AutoModelForCausalLM.from_pretrained(
            path, quantization_config=said, dtype=dtype, output_loading_info=True
        )
        assert not any(told.values()), told
        for name, tensor in live_of(loaded).items():
            assert torch.equal(folder.read(name).to(tensor.dtype), tensor), name


def test_blocks_that_are_cut_short_are_read_where_transformers_refuses_them(tmp_path: Path) -> None:
    """DeepSeek-V3's kv_a_proj_with_mqa has 576 rows in blocks of 128."""
    saved(tmp_path, "deepseek_v3", torch.bfloat16)
    to_fp8(tmp_path, BLOCK)
    with pytest.raises(Exception, match="issues during automatic conversion"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=FineGrainedFP8Config(dequantize=True))
    read = {name: opened(tmp_path).read(name) for name in PIECES}
    unfold(tmp_path, BLOCK)
    for name, values in read.items():
        assert torch.equal(values, opened(tmp_path).read(name)), name


PIECES = (
    "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
    "model.layers.1.self_attn.kv_a_proj_with_mqa.weight[100:777]",
    "model.layers.1.mlp.experts.gate_up_proj[3]",
)
