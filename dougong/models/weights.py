"""Initial weights from a Hugging Face folder, one named tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from safetensors import safe_open
from torch import Tensor

from dougong.errors import ModelError
from dougong.ops.finite import first_not_finite, is_finite, num_not_finite

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class DiskShape(Protocol):
    """A whole tensor on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class StoredPiece(Protocol):
    """A place on disk: the whole tensor `disk` (`row` None), or that row of it."""

    @property
    def name(self) -> str: ...
    @property
    def row(self) -> int | None: ...
    @property
    def disk(self) -> DiskShape: ...


class TensorNames(Protocol):
    """What is asked of the model's map between live tensors and files.

    The map itself, `checkpoint.huggingface.Names`, is in a room above this one.
    """

    def pieces(self, logical: str) -> Sequence[StoredPiece]:
        """Where a logical tensor lies."""

    def from_disk(self, logical: str, values: Mapping[str, Tensor]) -> Tensor:
        """The live values of a logical tensor from its pieces' values, by the pieces' names."""


class WeightsFolder:
    """Reads logical tensors from safetensors files; only the parts asked for leave the disk."""

    def __init__(self, path: Path, names: TensorNames) -> None:
        """Raises `ModelError` when the folder holds no weights."""
        self._path = path
        self._names = names
        self._files = self._index()

    def read(self, logical: str) -> Tensor:
        """A logical tensor in float32 on the CPU.

        Raises `ModelError` when the folder does not hold it, or holds a NaN or an infinity in it.
        """
        pieces = self._names.pieces(logical)
        values = {piece.name: self._piece(piece, logical) for piece in pieces}
        return _as_float32(self._names.from_disk(logical, values))

    def _piece(self, piece: StoredPiece, logical: str) -> Tensor:
        name = self._stored_name(piece.name)
        file = self._files.get(name)
        if file is None:
            raise ModelError(
                f"model.path: {self._path} holds no tensor {piece.name} (for {logical}); "
                "its weights are of another model, or the download is not complete"
            )
        with safe_open(self._path / file, framework="pt") as opened:
            stored = opened.get_slice(name)
            _check_shape(self._path / file, piece, tuple(stored.get_shape()))
            tensor: Tensor = opened.get_tensor(name) if piece.row is None else stored[piece.row]
        values = _as_float32(tensor)
        _refuse_not_finite(self._path / file, piece, values)
        return values

    def _stored_name(self, name: str) -> str:
        """Some folders hold the base model alone, whose names lack the first word."""
        bare = name.partition(".")[2]
        if name not in self._files and bare in self._files:
            return bare
        return name

    def _index(self) -> dict[str, str]:
        if (self._path / INDEX).is_file():
            index: dict[str, str] = json.loads((self._path / INDEX).read_text())["weight_map"]
            return index
        if (self._path / SINGLE).is_file():
            with safe_open(self._path / SINGLE, framework="pt") as opened:
                return dict.fromkeys(opened.keys(), SINGLE)
        raise ModelError(
            f"model.path: {self._path} holds neither {INDEX} nor {SINGLE}; "
            "only safetensors are read"
        )


def _check_shape(path: Path, piece: StoredPiece, shape: tuple[int, ...]) -> None:
    if shape != piece.disk.shape:
        raise ModelError(
            f"model.path: {path}: {piece.name} has shape {shape}, "
            f"but the model has {piece.disk.shape}; "
            "its weights are of another model than its config.json"
        )


def _refuse_not_finite(path: Path, piece: StoredPiece, values: Tensor) -> None:
    """float64 may hold what float32 cannot, so the values are looked at as they will be used."""
    if is_finite(values):
        return
    (count,) = num_not_finite([values])
    first = first_not_finite(values)
    assert first is not None
    place = [*first] if piece.row is None else [piece.row, *first]
    raise ModelError(
        f"model.path: {path}: {piece.name} is not finite (NaN or infinite) in float32 in {count} "
        f"of its values, the first at {place}: {float(values[first])}; training on it would give "
        "NaN; give a folder without such values"
    )


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
