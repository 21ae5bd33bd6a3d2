"""A checkpoint's adapters as a folder that peft reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from dougong.checkpoint.disk import write_new
from dougong.checkpoint.export import whole_folder
from dougong.checkpoint.lora.stored import StoredAdapters
from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.errors import SourceError
from dougong.models.patterns import name_patterns
from dougong.models.peft_form import CONFIG_FILE, WEIGHTS_FILE, peft_tensors
from dougong.ops.adapter_names import is_adapter


def write_peft_folder(stored: StoredAdapters, out: Path, dtype: str = "float32") -> list[Path]:
    """Write adapter_config.json and adapter_model.safetensors into a new folder `out`, whole or not
    at all; returns the files. Raises SourceError where more than adapters was trained:
    the folder would not be the model."""
    _refuse_more(stored)
    tensors = {}
    for one in peft_tensors(stored.parameters, stored.sites):
        parts = [stored.read(name) for name in one.live_names]
        tensors[one.key] = one.joined(parts).to(getattr(torch, dtype)).contiguous()
    with whole_folder(out) as unfinished:
        save_file(tensors, unfinished / WEIGHTS_FILE, {"format": "pt"})
        text = json.dumps(dict(stored.values), indent=2, sort_keys=True) + "\n"
        write_new(unfinished / CONFIG_FILE, text.encode())
    return sorted(out.iterdir())


def _refuse_more(stored: StoredAdapters) -> None:
    """What has moments was trained."""
    entries = [entry for _, entry in stored.manifest.entries()]
    trained = {entry.name for entry in entries if entry.group != MODEL_GROUP}
    others = {_parameter(name) for name in trained if not is_adapter(name)}
    if others:
        every = {_parameter(entry.name) for entry in entries}
        raise SourceError(
            f"{stored.directory}: more than adapters was trained "
            f"({name_patterns(sorted(others), every - others)}), so that they alone are not the "
            "model; export it without --adapter"
        )


def _parameter(name: str) -> str:
    return name.partition("[")[0]
