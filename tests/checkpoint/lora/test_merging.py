"""A merged model is what plain peft merges, bit by bit, for families of every form on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.checkpoint import export as writing
from dougong.tools.export import export_adapters, export_merged
from peft import PeftModel
from safetensors.torch import load_file
from tests.tuned_runs import BASE, saved
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "mixtral", "longcat_flash"])
def test_the_merged_model_is_that_of_peft(family: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, family)
    export_merged(checkpoint, tmp_path / "merged", "float32")
    export_adapters(checkpoint, tmp_path / "adapter")
    ours, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / BASE)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    changed = set()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7)
        changed |= set() if torch.equal(tensor, before[name]) else {name.rpartition(".")[2]}
    assert {"gate_up_proj", "down_proj", "weight"} <= changed


def test_a_merged_export_has_nothing_of_the_adapters_and_rounds_to_bfloat16(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path)
    files = export_merged(checkpoint, tmp_path / "merged", "bfloat16")
    assert "adapter_config.json" not in [file.name for file in files]
    export_merged(checkpoint, tmp_path / "wide", "float32")
    half, wide = load_file(tmp_path / "merged/model.safetensors"), load_file(tmp_path / "wide/model.safetensors")
    assert half.keys() == wide.keys() and not any("lora" in name for name in half)
    for name, tensor in wide.items():
        assert torch.equal(half[name], tensor.bfloat16().to(half[name].dtype))


def test_without_merging_the_base_is_what_it_was(tmp_path: Path) -> None:
    """So a checkpoint's own tensors are those of the folder."""
    checkpoint = saved(tmp_path)
    writing.export(checkpoint, tmp_path / "plain")
    plain, base = load_file(tmp_path / "plain/model.safetensors"), load_file(tmp_path / BASE / "model.safetensors")
    assert all(torch.equal(plain[name], tensor) for name, tensor in base.items())
