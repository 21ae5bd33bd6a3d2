"""Jobs that are small enough to be tried on the spot: a family's own code with a small
configuration. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.errors import ModelError
from dougong.job.families import Families, read_families
from dougong.job.model_rules import why_not_trained
from dougong.job.schema import Job
from dougong.models.stored.folder import CONFIG, check_folder, read_config

VOCABULARY = 256
FAMILY = "qwen3_moe"
"""What is trained where no model is asked for."""

_SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY,
    "max_position_embeddings": 128, "num_experts_per_tok": 2, "num_experts": 8,
    "num_local_experts": 8, "n_routed_experts": 8, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8,
    "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2,
}  # fmt: skip
"""By key: those that a family knows are set."""
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "head_dim": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "q_lora_rank": 32, "kv_lora_rank": 32,
}  # fmt: skip
"""The same for families whose keys and values go through a narrow product."""
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        "moe_intermediate_size": 96, "q_lora_rank": 32, "index_topk": 2,
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "layer_types": [
            "heavily_compressed_attention", "compressed_sparse_attention", "sliding_attention",
        ],
    },
    "longcat_flash": {
        "zero_expert_num": 4, "moe_topk": 2, "expert_ffn_hidden_size": 32, "ffn_hidden_size": 96,
        "num_layers": 2, "num_hidden_layers": 4,
    },
    "qwen3_next": {"num_hidden_layers": 4},
}  # fmt: skip
"""What a family needs beside them."""


def job_of(model: str = FAMILY) -> Job:
    """A job on one lane that trains a small model of a family, or a folder's own. `ModelError` for
    what is neither."""
    values: dict[str, Any] = {
        "job": "conform",
        "model": _folder(model) if os.path.lexists(model) else _small_model(model),
        "data": {"text": "stdlib", "sequence_length": 16},
        "batch": {"lanes": 1, "microbatches": 2, "microbatch_size": 2},
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "steps": 50,
        "seed": 7,
        "islands": [{"name": "here", "accelerator": "cpu"}],
    }
    return Job.model_validate(values)


def _folder(model: str) -> dict[str, Any]:
    folder, families = Path(model).absolute(), read_families()
    if not folder.is_dir():
        raise ModelError(
            f"--model {model}: is not a folder; give the Hugging Face folder, which holds a "
            f"{CONFIG} beside the weights, or a family's name, such as {FAMILY}"
        )
    try:
        check_folder(folder)
        config = read_config(folder)
    except ModelError as error:
        text = str(error).removeprefix("model.path: ")
        raise ModelError(f"--model {text}, or a family's name, such as {FAMILY}") from error
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ModelError(f"--model {model}: its {CONFIG} has no model_type, the family; add it")
    if families.is_of_installed and family not in families.with_experts:
        raise ModelError(_refusal(model, families, family, "auto_map" in config))
    return {"path": str(folder)}


def _small_model(family: str) -> dict[str, Any]:
    families = read_families()
    known = families.with_experts.get(family)
    if known is None and os.sep in family:
        raise ModelError(
            f"--model {family}: there is no such folder; check the path, or give a family's name, "
            f"such as {FAMILY}"
        )
    if known is None:
        raise ModelError(_refusal(family, families, family))
    latent = _LATENT if known.knows("kv_lora_rank") else {}
    wanted: Mapping[str, Any] = {**_SMALL, **latent, **_OF_FAMILY.get(family, {})}
    config = {key: value for key, value in wanted.items() if known.knows(key)}
    return {"family": family, "config": config}


def _refusal(model: str, families: Families, family: str, has_code: bool = False) -> str:
    """In one sentence, with all that could be given instead."""
    why = why_not_trained(families, family, has_code)
    supported = ", ".join(sorted(families.with_experts))
    return f"--model {model}: {why}; supported are {supported}, and Hugging Face folders of these"
