"""Initial weights from a Hugging Face folder, one named tensor at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class WeightsFolder:
    """Reads logical tensors from safetensors files; only the parts asked for leave the disk."""

    def __init__(self, path: Path, names: Any) -> None:
        """`names`: the model's `checkpoint.huggingface.Names`. Raises `ModelError` when there are no weights."""
        self._path = path
        self._names = names
        self._files = self._index()

    def read(self, logical: str) -> Tensor:
        """A logical tensor in float32 on the CPU. Raises `ModelError` when the folder does not hold it."""
        pieces = self._names.pieces(logical)
        values = {p.name: self._piece(p.name, p.row, logical) for p in pieces}
        tensor: Tensor = self._names.from_disk(logical, values)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _piece(self, name: str, row: int | None, logical: str) -> Tensor:
        from safetensors import safe_open

        bare = name.partition(".")[2]  # some folders hold the base model, whose names lack the first word
        name = name if name in self._files or bare not in self._files else bare
        file = self._files.get(name)
        if file is None:
            raise ModelError(
                f"model.path: {self._path} holds no tensor {name} (for {logical}); "
                "its weights are of another model, or the download is not complete"
            )
        with safe_open(self._path / file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name) if row is None else opened.get_slice(name)[row]
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor

    def _index(self) -> dict[str, str]:
        from safetensors import safe_open

        if (self._path / INDEX).is_file():
            index: dict[str, str] = json.loads((self._path / INDEX).read_text())["weight_map"]
            return index
        if (self._path / SINGLE).is_file():
            with safe_open(self._path / SINGLE, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), SINGLE)
        raise ModelError(f"model.path: {self._path} holds neither {INDEX} nor {SINGLE}; only safetensors are read")
