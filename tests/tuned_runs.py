"""Runs with adapters from a folder of a tiny model, and peft's own model of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dougong.job.schema import Job
from dougong.models.adapters import initial_adapter
from dougong.training.build import build_model
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from tests.families import config_values
from tests.jobs import make_job
from tests.training.running import Order, run, token_file

BASE = "base"
HIGHEST_ID = 255


def base_folder(folder: Path, family: str = "qwen3_moe", **changes: Any) -> Path:
    """A saved tiny model, as a user has one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **config_values(family, **{"vocab_size": 256, **changes}))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / BASE)
    return folder / BASE


def adapted_job(folder: Path, **changes: Any) -> Job:
    """Of `base_folder`, with adapters; `changes` of its sections."""
    model = {"path": str(folder / BASE), "lora": {"rank": 3, "alpha": 6.0}}
    data = {"tokens": str(token_file(folder)), "sequence_length": 16, "tokenizer": "bytes"}
    batch = {"lanes": 2, "microbatches": 2, "microbatch_size": 1}
    given = {"model": model, "data": data, "batch": batch, "steps": 4, "checkpoint": {"every": 2}}
    optimizer = {"name": "adamw", "lr": 2e-2, "weight_decay": 0.0}
    return make_job(**given | {"optimizer": optimizer} | changes)


def saved(folder: Path, family: str = "qwen3_moe", roles: str = "B", **changes: Any) -> Path:
    """The last checkpoint of a run."""
    base_folder(folder, family)
    outcome = run(Order(adapted_job(folder, **changes), roles, folder / "run"))
    assert not outcome.errors
    return outcome.committed[4]


def peft_of(job: Job, base: Any, vocab_size: int = 256) -> Any:
    """peft's own model around one of transformers, with our first values."""
    names = build_model(job, vocab_size, torch.device("cpu")).names
    values = json.loads(names.model_files["adapter_config.json"])
    kept = ("r", "lora_alpha", "target_modules", "target_parameters")
    model = get_peft_model(base, LoraConfig(**{key: values[key] for key in kept}))
    state = {}
    for one in names.adapters:
        parts = [initial_adapter(name, names.shape_of(name), job.seed) for name in one.live_names]
        state[one.key] = one.joined(parts)
    assert not set_peft_model_state_dict(model, state).unexpected_keys
    return model
