"""Names of adapters' tensors, there and back."""

from __future__ import annotations

import pytest
from dougong.ops.adapter_names import adapted_tensor, adapter_of, is_adapter, is_of_experts

PAIRS = {
    "model.layers.0.self_attn.q_proj.weight": "model.layers.0.self_attn.q_proj.lora_A",
    "model.layers.0.mlp.experts.gate_up_proj[12]": "model.layers.0.mlp.experts.gate_up_proj_lora_A[12]",
    "model.layers.0.mlp.experts.gate_up_proj": "model.layers.0.mlp.experts.gate_up_proj_lora_A",
    "gate_up_proj": "gate_up_proj_lora_A",
}


@pytest.mark.parametrize(("tensor", "half"), PAIRS.items())
def test_an_adapter_is_called_after_its_tensor(tensor: str, half: str) -> None:
    assert adapter_of(tensor, "A") == half and adapter_of(tensor, "B") == half.replace("lora_A", "lora_B")
    assert adapted_tensor(half) == (tensor, "A")
    assert is_adapter(half) and not is_adapter(tensor)
    assert is_of_experts(half) == ("experts" in half or half == "gate_up_proj_lora_A")


@pytest.mark.parametrize("name", ["lora_A", "model.lora_embedding_A.weight", "model.flora_A"])
def test_other_names_are_no_adapters(name: str) -> None:
    assert not is_adapter(name)
