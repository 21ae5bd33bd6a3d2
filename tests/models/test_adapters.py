"""Adapters in a model: which tensors have one, its first values, what it computes."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.job.parts.lora import Lora
from dougong.models.adapters import AdaptedLinear, add_adapters, fill_adapters, initial_adapter, is_transposed
from dougong.models.sites import find_sites
from tests.families import tiny_config
from torch import nn
from transformers import AutoModelForCausalLM


def made(family: str, lora: Lora) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(tiny_config(family))
    add_adapters(model, lora)
    return model


def test_attention_and_experts_are_adapted_by_default() -> None:
    model = made("qwen3_moe", Lora(rank=3))
    linear = {name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, AdaptedLinear)}
    assert linear == {"q_proj", "k_proj", "v_proj", "o_proj"}
    for site in find_sites(model):
        assert site.shapes["gate_up_proj_lora_A"] == (3, site.shapes["gate_up_proj"][1])
        assert site.shapes["gate_up_proj_lora_B"] == (site.shapes["gate_up_proj"][0], 3)


def test_transposed_matrices_have_their_widths_the_other_way() -> None:
    site = find_sites(made("gpt_oss", Lora(rank=3)))[0]
    assert is_transposed(site)
    size_in, size_out = site.shapes["gate_up_proj"]
    assert site.shapes["gate_up_proj_lora_A"] == (3, size_in)
    assert site.shapes["gate_up_proj_lora_B"] == (size_out, 3)
    assert not [name for name in site.shapes if "bias_lora" in name]


def test_targets_choose_tensors() -> None:
    model = made("qwen3_moe", Lora(targets=("*", "!*attn*", "!*.gate_up_proj")))
    names = {name for name, _ in model.named_parameters() if "lora" in name}
    assert all(name.startswith("lm_head") or ".down_proj_lora" in name for name in names)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("*.q_porj.*",), "matches no tensor of the model, such as .*q_proj.weight"),
        (("*norm*",), r"'\*norm\*' names tensors that can have no adapter"),
        (("*.q_proj.weight", "!*"), "nothing is adapted"),
        ((), "the list is empty: nothing is adapted"),
        (("*layers.0.mlp.experts.*",), "of some layers' experts and not of .*experts are adapted in all layers or"),
    ],
)
def test_targets_without_an_adapter_are_refused(targets: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        made("qwen3_moe", Lora(targets=targets))


def test_a_tied_head_has_no_adapter() -> None:
    """Merged it would change the embedding."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe", tie_word_embeddings=True))
    with pytest.raises(ModelError, match="lm_head"):
        add_adapters(model, Lora(targets=("lm_head*",)))


def test_a_begins_within_one_over_the_root_of_its_width_and_b_at_zero() -> None:
    a = initial_adapter("x.experts.down_proj_lora_A[3]", (16, 400), 7)
    assert a.dtype == torch.float32 and 0.049 < float(a.abs().max()) <= 0.05 and abs(float(a.mean())) < 0.002
    assert torch.equal(a, initial_adapter("x.experts.down_proj_lora_A[3]", (16, 400), 7))
    assert not torch.equal(a, initial_adapter("x.experts.down_proj_lora_A[4]", (16, 400), 7))
    assert not initial_adapter("x.q_proj.lora_B", (400, 16), 7).any()


def test_a_layer_computes_as_peft_does() -> None:
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    for dtype in (torch.float32, torch.bfloat16):
        plain = nn.Linear(12, 20, dtype=dtype)
        theirs = Linear(nn.Linear(12, 20, dtype=dtype), "a", LoraConfig(r=4, lora_alpha=6), r=4, lora_alpha=6)
        theirs.load_state_dict({f"base_layer.{n}": t for n, t in plain.state_dict().items()}, strict=False)
        holder = nn.Module()
        holder.layer = plain
        holder.layer.__class__ = AdaptedLinear
        holder.layer.scaling = 1.5  # type: ignore[assignment]
        holder.layer.lora_A, holder.layer.lora_B = nn.Parameter(torch.zeros(4, 12)), nn.Parameter(torch.zeros(20, 4))
        fill_adapters(holder, 3)
        with torch.no_grad():
            holder.layer.lora_B.normal_()  # type: ignore[operator, union-attr]
            theirs.lora_A["a"].weight = nn.Parameter(holder.layer.lora_A.detach())  # type: ignore[arg-type]
            theirs.lora_B["a"].weight = nn.Parameter(holder.layer.lora_B.detach())  # type: ignore[arg-type]
            rows = torch.randn(5, 12, dtype=dtype)
            assert torch.equal(plain(rows), theirs(rows))
