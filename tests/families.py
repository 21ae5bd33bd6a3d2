"""Tiny configurations of the families that tests train: small enough to build in well under a second."""

from __future__ import annotations

from typing import Any

FAMILIES = (
    "qwen3_moe", "deepseek_v3", "deepseek_v32", "deepseek_v4", "glm4_moe", "minimax",
    "minimax_m2", "gpt_oss", "olmoe", "mixtral", "longcat_flash", "qwen3_next",
)  # fmt: skip
WITH_TOWERS = ("qwen3_vl_moe", "glm4v_moe", "step3p7")
"""Families that transformers builds with towers only, for texts here."""
FURTHER = (*WITH_TOWERS, "llama4_text")
"""Families whose models are not taken as they are: see `models/towers.py` and `models/by_choice.py`."""

_COMMON: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "head_dim": 16, "max_position_embeddings": 128,
    "num_experts_per_tok": 2, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2,
}  # fmt: skip
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "q_lora_rank": 32, "kv_lora_rank": 32,
}  # fmt: skip
_GROUPED: dict[str, Any] = {
    "n_routed_experts": 8,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_FAMILY: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 8, "moe_intermediate_size": 32},
    "deepseek_v3": {**_LATENT, **_GROUPED},
    "deepseek_v32": {**_LATENT, **_GROUPED, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8},
    "deepseek_v4": {
        "n_routed_experts": 8, "moe_intermediate_size": 96, "q_lora_rank": 32, "index_topk": 2,
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention"],
    },
    "glm4_moe": _GROUPED,
    "minimax": {"num_local_experts": 8},
    "minimax_m2": {"num_local_experts": 8},
    "gpt_oss": {"num_local_experts": 8},
    "olmoe": {"num_experts": 8},
    "mixtral": {"num_local_experts": 8},
    "longcat_flash": {
        **_LATENT, "n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 2, "expert_ffn_hidden_size": 32,
        "ffn_hidden_size": 96, "num_layers": 2, "num_hidden_layers": 4,
    },
    "qwen3_next": {"num_experts": 8, "moe_intermediate_size": 32, "num_hidden_layers": 4},
    "qwen3_vl_moe": {
        "num_experts": 8, "moe_intermediate_size": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64,
            "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16,
        },
    },
    "glm4v_moe": {
        **_GROUPED,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2],
        },
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64,
        },
    },
    "step3p7": {
        "n_routed_experts": 8, "moe_intermediate_size": 32, "share_expert_dim": 32, "num_sliding_attention_heads": 4,
        "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    },
    # Its block calls all experts on every token.
    "llama4_text": {
        "num_local_experts": 8, "num_experts_per_tok": 1, "intermediate_size": 32, "intermediate_size_mlp": 96,
        "attention_chunk_size": 8, "no_rope_layers": [1, 1, 0],
    },
    # Has a language model of its own beside the class with towers.
    "qwen3_5_moe": {
        "num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_hidden_layers": 4,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64,
            "num_position_embeddings": 16,
        },
    },
    # Calls one projection twice in a layer. Not among `FAMILIES`: its own tests are where that matters.
    "zaya": {
        "num_experts": 8, "moe_intermediate_size": 32, "num_experts_per_tok": 1, "router_hidden_size": 16,
        "intermediate_size": None,
    },
}  # fmt: skip


SMALLEST: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "intermediate_size": 16,
}  # fmt: skip
"""A qwen3_moe of a few thousand parameters, where its size is of no matter."""


def config_values(family: str, **changes: Any) -> dict[str, Any]:
    """The keys of a job file's `model.config` for a tiny model of `family`: 8 experts, 2 for each token."""
    values = {**_COMMON, **_FAMILY[family], **changes}
    return {key: value for key, value in values.items() if value is not None}


def tiny_config(family: str, **changes: Any) -> Any:
    """The same as a transformers configuration."""
    from dougong.models.configs.parts import by_part
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    return kind(**by_part(kind, config_values(family, **changes)))
