"""Adapters that a job goes on from: peft's own folders are read, those of another model refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.parts.lora import Lora
from dougong.job.schema import Model
from dougong.models.adapter_folder import AdapterFolder
from dougong.models.configs.load import load_config
from dougong.models.peft_form import adapters_of
from dougong.models.sites import find_sites
from dougong.models.tuned import tuned_on_meta
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.tuned_runs import base_folder
from transformers import AutoModelForCausalLM

LORA = Lora(rank=3, alpha=6.0)
TARGETS: dict[str, Any] = {
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
}


def peft_folder(folder: Path, rank: int = 3) -> Any:
    """As peft writes it, with B that is not zero; the model that wrote it."""
    base = base_folder(folder)
    torch.manual_seed(5)
    config = LoraConfig(r=rank, lora_alpha=6, init_lora_weights=False, **TARGETS)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder / "adapter")
    return model


def opened(folder: Path, lora: Lora = LORA) -> tuple[AdapterFolder, dict[str, tuple[int, ...]]]:
    given = Model(path=str(folder / "base"), lora=lora)
    network = tuned_on_meta(given, load_config(given, None))
    adapters = adapters_of(network, find_sites(network), given)
    shapes = {}
    for one in adapters.tensors:
        shape = tuple(network.get_parameter(one.adapter).shape)
        shapes |= dict.fromkeys(one.live_names, shape if one.rows is None else shape[1:])
    return AdapterFolder(folder / "adapter", adapters.tensors), shapes


def test_what_peft_has_written_is_read(tmp_path: Path) -> None:
    model = peft_folder(tmp_path)
    folder, shapes = opened(tmp_path)
    folder.check(LORA, shapes)
    assert folder.base == str(tmp_path / "base")
    site = "model.layers.1.mlp.experts"
    experts = model.base_model.model.model.layers[1].mlp.experts
    delta = experts.get_delta_weight("default")  # of the outer one, down_proj
    a, b = (folder.read(f"{site}.down_proj_lora_{half}[5]") for half in ("A", "B"))
    torch.testing.assert_close(2.0 * b @ a, delta[5])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    a, b = (folder.read(f"model.layers.0.self_attn.q_proj.lora_{half}") for half in ("A", "B"))
    torch.testing.assert_close(2.0 * b @ a, layer.get_delta_weight("default"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def drop_first(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(min(tensors))


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(3, 4)


def narrow_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = torch.zeros(2, 2)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "rank": (lambda f: change_config(f, r=8), r"r is 8; set model\.lora\.rank to it \(it is 3\)"),
    "alpha": (lambda f: change_config(f, lora_alpha=8), r"lora_alpha is 8; set model\.lora\.alpha"),
    "kind": (lambda f: change_config(f, peft_type="IA3"), "peft_type is 'IA3'"),
    "dora": (lambda f: change_config(f, use_dora=True), "use_dora is True; such adapters are not trained here"),
    "bias": (lambda f: change_config(f, bias="all"), "bias is 'all'"),
    "absent": (lambda f: change_weights(f, drop_first), r"holds no .*, which model\.lora\.targets name"),
    "more": (lambda f: change_weights(f, add_one), r"holds .*lm_head.*, which model\.lora\.targets do not name"),
    "shape": (lambda f: change_weights(f, narrow_one), r"has shape \[2, 2\], this model's is .* of another model"),
    "no json": (lambda f: (f / "adapter/adapter_config.json").write_text("{"), "is not JSON"),
    "cut": (lambda f: (f / "adapter/adapter_model.safetensors").write_bytes(b"abc"), "cannot be read"),
    "gone": (lambda f: (f / "adapter/adapter_config.json").unlink(), r"No such file .*; give a folder that peft, or"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_adapter_of_another_model_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    peft_folder(tmp_path)
    change, words = CHANGES[case]
    change(tmp_path)
    folder, shapes = opened(tmp_path)
    with pytest.raises(ModelError, match=rf"model\.lora\.path: .*adapter/adapter_.*{words}"):
        folder.check(LORA, shapes)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    peft_folder(tmp_path)
    change_weights(tmp_path, lambda tensors: [tensor.fill_(float("nan")) for tensor in tensors.values()])
    folder, shapes = opened(tmp_path)
    with pytest.raises(ModelError, match="holds values that are not finite"):
        folder.read(min(shapes))
