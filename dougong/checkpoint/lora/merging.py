"""A checkpoint's model into which its adapters are merged, tensor by tensor as it is exported."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from dougong.checkpoint.lora.stored import StoredAdapters
from dougong.checkpoint.manifest import Entry
from dougong.checkpoint.parameters import Piece
from dougong.models.peft_form import CONFIG_FILE
from dougong.ops.adapter_names import is_adapter

_Place = tuple[str, int | tuple[int, int] | None]
"""(tensor on disk, row or span)."""
_AT_ONCE = 2
"""Tensors whose values are kept: one may lie in several tensors on disk, side by side."""


class Merging:
    """What an export writes instead of the checkpoint's own tensors (`export.Changes`)."""

    files_left_out = frozenset({CONFIG_FILE})

    def __init__(self, stored: StoredAdapters) -> None:
        self._stored = stored
        self._logical: dict[_Place, str] = {}
        for name in stored.adapted:
            for piece in stored.names.pieces(name):
                self._logical[_place_of(piece)] = name
        self._values = lru_cache(_AT_ONCE)(self._on_disk)

    def is_left_out(self, name: str) -> bool:
        """Whether a tensor on disk is an adapter's."""
        return is_adapter(name)

    def values(self, entry: Entry) -> bytes | None:
        """The float32 bytes of a place on disk; None where no adapter belongs there."""
        span = None if entry.span is None else (entry.span.begin, entry.span.end)
        place = entry.name, entry.row if span is None else span
        name = self._logical.get(place) or self._logical.get((entry.name, None))
        if name is None:
            return None
        for piece, values in self._values(name):
            if _place_of(piece) == place:
                return values.contiguous().numpy().tobytes()
            if piece.name == entry.name and span is not None:
                return values.flatten()[slice(*span)].numpy().tobytes()
        return None

    def _on_disk(self, name: str) -> list[tuple[Piece, Tensor]]:
        return self._stored.names.to_disk(name, self._stored.merged(name))


def _place_of(piece: Piece) -> _Place:
    if piece.span is not None:
        return piece.name, (piece.span.begin, piece.span.end)
    return piece.name, piece.row
