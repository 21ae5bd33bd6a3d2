"""Tiny configurations of every family with experts, derived from the defaults of its own class.

A key is made small by its name, whatever the family; lists with a value for each layer are cut so that each value that
there is stays among them. What no rule gives is in `EXCEPTIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dougong.job.rule import TEXT_PART
from dougong.models.configs.parts import parts_of, text_config
from transformers import CONFIG_MAPPING

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "vocab_size": 256,
    "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2,
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts", "moe_k"), 2,
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(
        ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
         "share_expert_dim", "shared_intermediate_size", "shared_experts_intermediate_size", "expert_ffn_hidden_size",
         "moe_hidden_size"), 32,
    ),
    "dense_intermediate_size": 96, "intermediate_size_mlp": 96, "ffn_hidden_size": 96,
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "o_lora_rank": 32, "o_groups": 2, "n_group": 1, "topk_group": 1, "num_expert_group": 1, "first_k_dense_replace": 1,
    "num_dense_layers": 1, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 2, "index_block_size": 4,
    "index_topk_blocks": 2, "index_kpool": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_head_dim": 16, "linear_num_heads": 4,
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_num_heads": 8, "mamba_head_dim": 16,
    "ssm_state_size": 16, "mamba_dt_rank": 8, "n_groups": 2, "mamba_chunk_size": 16, "chunk_size": 16,
    "sliding_window": 8, "sliding_window_size": 8, "attention_chunk_size": 8, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2, "swa_head_dim": 16, "d_rel": 4, "rel_extent": 64, "kv_channels": 16,
    "router_hidden_size": 16, "gated_norm_rank": 8, "num_sliding_attention_heads": 4, "zero_expert_num": 4,
    "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 256, "hc_lowrank": 16, "block_size": 8,
    "rotary_dim": 8, "d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 128,
}  # fmt: skip
"""Key -> value, where a family's text part declares the key."""

TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_hidden_layers": 2, "num_heads": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "out_hidden_size": 64,
    "deepstack_visual_indexes": [0, 1], "projection_intermediate_size": 64, "num_position_embeddings": 16,
    "adapter_in_dim": 32, "adapter_out_dim": 64, "moe_intermediate_size": 32, "text_hidden_size": 64,
    "projection_hidden_dim": 64, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "output_dim": 64, "downsample_hidden_size": 16, "embed_dim": 32, "num_local_experts": 4,
    "adapter_input_size": 32, "output_channels": 16, "mlp_dim": 64, "downsample_channels": [16, 32],
    "global_attn_indexes": [1],
    "position_embedding_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
"""The same for all other parts."""

_DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GEMMA4 = {"enable_moe_block": True, "num_hidden_layers": 6}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        "index_topk": 2, "mlp_layer_types": ["hash_moe", "moe", "moe"], "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"],
    },
    "longcat_flash": {"num_layers": 2, "num_key_value_heads": 4},
    "gemma4_text": _GEMMA4,
    "dots1": {"n_shared_experts": 1, "num_key_value_heads": 4},
    "glm4v_moe_text": {"rope_parameters": {**_DEFAULT_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
    "qwen3_vl_moe_text": {"rope_parameters": {**_DEFAULT_ROPE, "mrope_section": [4, 2, 2]}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
    "ernie4_5_moe": {"moe_layer_end_index": 3},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mistral4": {"head_dim": 16},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "zaya": {"num_experts_per_tok": 1},
    "llama4_text": {"num_experts_per_tok": 1, "no_rope_layers": [1, 1, 1, 0]},
    "qwen4_exp_text": {
        "ple_layer_ids": [1], "ple_embed_dim": 32, "ngram_vocab_size_base": 64, "heads_per_ngram": 2,
        "split_ngram_parts": 1, "hc_count": 2, "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16,
        "indexer_budget": 8, "indexer_compress_ratio": 2,
    },
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
}  # fmt: skip
"""By the text part's model type: values that no rule gives."""


def tiny_values(family: str) -> dict[str, Any]:
    """The keys of a job file's `model.config` for a tiny model of any family: 8 experts, mostly 2 for each token."""
    config = CONFIG_MAPPING[family]()
    text = text_config(config)
    values = _of_text(text)
    if text is config:
        return values
    return {TEXT_PART: values, **dict(_of_towers(config))}


def _of_text(text: Any) -> dict[str, Any]:
    known, own = text.to_dict(), EXCEPTIONS.get(text.model_type, {})
    values = {key: value for key, value in SMALL.items() if key in known}
    if "kv_lora_rank" in known and text.model_type != "deepseek_v4":
        values |= _latent_heads(known)
    if known.get("q_lora_rank", 0) is None:
        del values["q_lora_rank"]
    num_layers = own.get("num_hidden_layers", values.get("num_hidden_layers", 4))
    values |= _by_layer(known, getattr(text, "num_hidden_layers", None), num_layers, values)
    return {**values, **own}


def _latent_heads(known: dict[str, Any]) -> dict[str, Any]:
    """Latent attention has as many heads of keys as of queries, and what turns with the position apart."""
    values: dict[str, Any] = {"num_key_value_heads": 4}
    if known.get("head_dim") is not None and known.get("qk_rope_head_dim"):
        values["head_dim"] = 8
    if known.get("qk_rope_head_dim") == 0:
        values |= {"qk_rope_head_dim": 0, "qk_nope_head_dim": 16}
    return values


def _by_layer(known: dict[str, Any], before: int | None, after: int, given: dict[str, Any]) -> dict[str, Any]:
    """Lists with a value for each layer, for as many layers as there are now."""
    values: dict[str, Any] = {}
    for key, value in known.items():
        if not isinstance(value, list) or not before or len(value) != before or key in given:
            continue
        if key == "num_attention_heads_per_layer":
            values[key] = [SMALL["num_attention_heads"]] * after
        elif key == "moe_layers":
            values[key] = list(range(after))
        elif isinstance(value[0], str | float):
            values[key] = _each_kind(value, after)
    return values


def _each_kind(values: list[Any], count: int) -> list[Any]:
    """As many, all kinds among them where there is room, the last kind most often."""
    kinds = list(dict.fromkeys(values))[:count]
    return [*kinds, *[kinds[-1]] * (count - len(kinds))]


def _of_towers(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, part in parts_of(config):
        if part is text_config(config):
            continue
        known = part.to_dict()
        values = {name: value for name, value in TOWER.items() if name in known}
        count = values.get("num_hidden_layers") or values.get("depth")
        for name, value in known.items():
            is_by_layer = isinstance(value, list) and len(value) > 6 and isinstance(value[0], str)
            if is_by_layer and count:
                values[name] = _each_kind(value, count)
        yield key, {**values, **dict(_of_parts(part))}


def _of_parts(tower: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A tower may be made of parts of its own."""
    for key, part in parts_of(tower):
        known = part.to_dict()
        yield key, {name: value for name, value in TOWER.items() if name in known}
