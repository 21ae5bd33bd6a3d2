"""Hugging Face folders of tiny models, made as a user would and then changed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.families import SMALLEST
from torch import Tensor

SINGLE = "model.safetensors"
Tensors = dict[str, Tensor]


def small_folder(folder: Path, family: str = "qwen3_moe", seed: int = 0, **changes: Any) -> Path:
    """A saved model of a few thousand parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    values = {**SMALLEST, "vocab_size": 256, "eos_token_id": 1, "bos_token_id": 0, **changes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values)).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[Tensors], object]) -> Tensors:
    """Write the folder's weights anew after `change` of the dict; returns them."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return tensors
