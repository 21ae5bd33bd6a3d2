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
        """`names`: the model's `checkpoint.huggingface.Names`. Raises `ModelError` when there are
        no weights."""
        self._path = path
        self._names = names
        self._files = self._index()

    def read(self, logical: str) -> Tensor:
        """A logical tensor in float32 on the CPU. Raises `ModelError` when the folder does not hold
        it."""
        values = {p.name: self._piece(p, logical) for p in self._names.pieces(logical)}
        tensor: Tensor = self._names.from_disk(logical, values)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _piece(self, piece: Any, logical: str) -> Tensor:
        from safetensors import safe_open

        bare = piece.name.partition(".")[
            2
        ]  # some folders hold the base model, whose names lack the first word
        name = bare if piece.name not in self._files and bare in self._files else piece.name
        file = self._files.get(name)
        if file is None:
            raise ModelError(
                f"model.path: {self._path} holds no tensor {piece.name} (for {logical}); "
                "its weights are of another model, or the download is not complete"
            )
        with safe_open(self._path / file, framework="pt") as opened:
            stored = opened.get_slice(name)
            shape = tuple(stored.get_shape())
            if shape != piece.disk.shape:
                raise ModelError(
                    f"model.path: {self._path / file}: {piece.name} has shape {shape}, but the model has "
                    f"{piece.disk.shape}; its weights are of another model than its config.json"
                )
            tensor: Tensor = opened.get_tensor(name) if piece.row is None else stored[piece.row]
        return tensor.to(torch.float32) if tensor.is_floating_point() else tensor

    def _index(self) -> dict[str, str]:
        from safetensors import safe_open

        if (self._path / INDEX).is_file():
            index: dict[str, str] = json.loads((self._path / INDEX).read_text())["weight_map"]
            return index
        if (self._path / SINGLE).is_file():
            with safe_open(self._path / SINGLE, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), SINGLE)
        raise ModelError(
            f"model.path: {self._path} holds neither {INDEX} nor {SINGLE}; only safetensors are read"
        )
