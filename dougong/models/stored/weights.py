"""Initial weights from a Hugging Face folder, one named tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dougong.errors import ModelError
from dougong.models.stored.folder import stored_tensors
from dougong.models.stored.headers import StoredTensor, by_name
from dougong.models.stored.quantised import DEQUANTISE, QuantisedTensor, is_scale, scale_refused
from dougong.models.stored.values import read_all, read_rows
from dougong.ops.finite import first_not_finite, num_not_finite

_ROWS_AT_ONCE = 4096


class StoredForm(Protocol):
    """A whole tensor on disk; `dtype` in safetensors' word, F32 for every floating one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


class StoredSpan(Protocol):
    """Elements of a tensor, counted as they lie there."""

    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...


class StoredPiece(Protocol):
    """A place on disk: the whole tensor `disk` (`row` None), or that row or `span` of it."""

    @property
    def name(self) -> str: ...
    @property
    def row(self) -> int | None: ...
    @property
    def span(self) -> StoredSpan | None: ...
    @property
    def disk(self) -> StoredForm: ...


class TensorNames(Protocol):
    """What is asked of the model's map between live tensors and files.

    The map itself, `checkpoint.huggingface.Names`, is in a room above this one.
    """

    def as_stored(self, stored: Mapping[str, tuple[int, ...]]) -> TensorNames:
        """The map for a folder with tensors of these names and shapes."""

    def tensors(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        """(logical name, shape) of all that is stored."""

    def aliases(self, logical: str) -> Sequence[str]:
        """Names on disk of tensors that are tied to a logical one, which is stored for them."""

    def pieces(self, logical: str) -> Sequence[StoredPiece]:
        """Where a logical tensor lies, or a piece of one by its name."""

    def also_reads(self, logical: str, shape: tuple[int, ...]) -> bool:
        """Whether a logical tensor is also read from a tensor on disk of that shape."""

    def from_disk(self, logical: str, values: Mapping[str, Tensor]) -> Tensor:
        """The live values of a logical tensor from its pieces' values, by the pieces' names."""


class WeightsFolder:
    """Reads logical tensors from safetensors files; only the parts asked for leave the disk."""

    def __init__(self, path: Path, names: TensorNames) -> None:
        """Raises `ModelError` when the folder holds no weights, or not all of its files."""
        self._path = path
        self.stored: Mapping[str, StoredTensor] = stored_tensors(path)
        """All tensors, by name, as they read."""
        shapes = {name: tensor.shape for name, tensor in self.stored.items()}
        self._names = names.as_stored(shapes)

    def check(self) -> tuple[str, ...]:
        """The stored tensors that the model does not use; no value is read but of tied tensors.

        Raises `ModelError` when a tensor of the model is missing, has another shape or no floats,
        when a scale is among the tensors that are not used, or when tied tensors differ.
        """
        used = set()
        for logical, _ in self._names.tensors():
            for piece in self._names.pieces(logical):
                used.add(self._find(piece, logical).name)
            for alias in self._names.aliases(logical):
                used.add(self._check_tied(logical, alias))
        unused = [name for name in self.stored if name not in used]
        for name in unused:
            if is_scale(name):
                raise scale_refused(self.stored[name])
        return tuple(unused)

    def read(self, logical: str) -> Tensor:
        """A logical tensor, or by its name a piece of one, in float32 on the CPU.

        Raises `ModelError` when the folder does not hold it, or holds a NaN or an infinity in it.
        """
        pieces = self._names.pieces(logical)
        values = {piece.name: self._piece(piece, logical) for piece in pieces}
        return self._names.from_disk(logical, values)

    def _piece(self, piece: StoredPiece, logical: str) -> Tensor:
        found = self._find(piece, logical)
        if piece.span is not None:
            values = _span_of(found, piece.span)
        elif piece.row is None:
            values = read_all(found)
        else:
            values = read_rows(found, piece.row, piece.row + 1)[0]
        _refuse_not_finite(found, piece, values)
        return values

    def _find(self, piece: StoredPiece, logical: str) -> StoredTensor:
        """The stored tensor of a piece. One that is tied may be stored under the other's name."""
        for name in (piece.name, *self._names.aliases(logical)):
            found = by_name(self.stored, name)
            if found is not None:
                if found.shape != piece.disk.shape and not self._reads(logical, piece, found):
                    raise _misshapen(found, piece)
                _check_dtype(found, piece)
                return found
        raise ModelError(
            f"model.path: {self._path} holds no tensor {piece.name} (for {logical}); "
            "its weights are of another model, or the download is not complete"
        )

    def _reads(self, logical: str, piece: StoredPiece, found: StoredTensor) -> bool:
        """Whether transformers reads it so: it must have as many rows."""
        is_alike = (
            len(found.shape) == len(piece.disk.shape) and found.shape[:1] == piece.disk.shape[:1]
        )
        return is_alike and self._names.also_reads(logical, found.shape)

    def _check_tied(self, logical: str, alias: str) -> str:
        """The alias's stored name, whose values must be those of the tensor it is tied to."""
        other = by_name(self.stored, alias)
        if other is None:
            return alias
        found = self._find(self._names.pieces(logical)[0], logical)
        if found.name != other.name and not same_values(found, other):
            raise ModelError(
                f"model.path: {self._path}: the configuration ties {other.name} to {found.name}, "
                "but the folder holds both with different values; set model.config: "
                "{tie_word_embeddings: false} to train both"
            )
        return other.name


def differing_tie(folder: Path, ties: Mapping[str, str]) -> tuple[str, str] | None:
    """The first two tied tensors that a folder holds with different values; None: there are none.

    `ties`: a name to the name that it is tied to. transformers does not tie such two.
    Raises `ModelError` when the folder is not whole.
    """
    stored = stored_tensors(folder)
    for name, source in ties.items():
        one, other = by_name(stored, name), by_name(stored, source)
        if one is not None and other is not None and not same_values(one, other):
            return one.name, other.name
    return None


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two stored tensors have the same shape and values, whatever their dtypes."""
    if one.shape != other.shape:
        return False
    for begin in range(0, one.shape[0], _ROWS_AT_ONCE):
        rows = begin, min(begin + _ROWS_AT_ONCE, one.shape[0])
        if not torch.equal(read_rows(one, *rows), read_rows(other, *rows)):
            return False
    return True


def _span_of(tensor: StoredTensor, span: StoredSpan) -> Tensor:
    """Of a tensor in a file, no more of which is read than the rows around the span. Flat."""
    row_numel = math.prod(tensor.shape[1:])
    first, last = span.begin // row_numel, (span.end - 1) // row_numel
    rows = read_rows(tensor, first, last + 1).reshape(-1)
    return rows[span.begin - first * row_numel :][: span.end - span.begin]


def _misshapen(found: StoredTensor, piece: StoredPiece) -> ModelError:
    return ModelError(
        f"model.path: {found.file}: {piece.name} has shape {found.shape}, "
        f"but the model has {piece.disk.shape}; "
        "its weights are of another model than its config.json"
    )


def _check_dtype(found: StoredTensor, piece: StoredPiece) -> None:
    if piece.disk.dtype == "F32" and not found.is_floating:
        raise ModelError(
            f"model.path: {found.file}: {piece.name} is stored as {found.dtype}, {DEQUANTISE}"
        )


def _refuse_not_finite(found: StoredTensor, piece: StoredPiece, values: Tensor) -> None:
    """float64 may hold what float32 cannot, so the values are looked at as they will be used."""
    (count,) = num_not_finite([values])
    if not count:
        return
    first = first_not_finite(values)
    assert first is not None
    place = [*first] if piece.row is None else [piece.row, *first]
    if piece.span is not None:
        (number,) = first
        place = list(map(int, np.unravel_index(piece.span.begin + number, found.shape)))
    scales = f" (scales {found.scales.name})" if isinstance(found, QuantisedTensor) else ""
    raise ModelError(
        f"model.path: {found.file}: {found.name}{scales} is not finite (NaN or infinite) in "
        f"float32 in {count} of its values, the first at {place}: {float(values[first])}; training "
        "on it would give NaN; give a folder without such values"
    )
