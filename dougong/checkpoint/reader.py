"""Reading a checkpoint tensor by tensor, each verified before it is handed out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.disk import digest, open_file, read_into
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, EntryKey, Manifest
from dougong.checkpoint.parameters import TORCH_DTYPES, Piece
from dougong.checkpoint.tensorfile import TensorSpan, not_finite_words, num_not_finite
from dougong.errors import CheckpointError, MisfitError
from dougong.parallel.pieces import piece_named

StateKey = tuple[str, str]
"""(group, name)."""
_Place = tuple[str, Entry]
"""(file, where in it)."""
_Range = tuple[int, int]


class CheckpointReader:
    """One checkpoint. Reads the byte ranges it is asked for and nothing else. Close it, or use it
    as a context.

    `names` is the map of the model that reads; only the optimizer's groups can be read without it.
    """

    def __init__(self, directory: Path, names: Names | None = None) -> None:
        """Raises `CheckpointError` when the directory holds no whole manifest."""
        self.directory = directory
        self.manifest = Manifest.load(directory)
        self._names = names
        self._places: dict[EntryKey, _Place] = {}
        self._spans: dict[StateKey, list[_Place]] = {}
        for file, entry in self.manifest.entries():
            if entry.span is None:
                self._places[entry.key] = (file, entry)
            else:
                self._spans.setdefault((entry.group, entry.name), []).append((file, entry))
        for places in self._spans.values():
            places.sort(key=_begin)
        # The whole tensor of which a piece was read last: the next one is likely to be beside it.
        self._last: tuple[EntryKey, Tensor] | None = None
        self._files: dict[str, int] = {}
        self._num_bytes = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """What the controller gave to `commit`, and the ledger's digest."""
        return self.manifest.metadata

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def ledger(self) -> str | None:
        """The ledger's digest after the step; None: the run keeps none."""
        found: str | None = self.metadata.get("ledger")
        return found

    @property
    def tiers(self) -> dict[str, int]:
        """How many bytes have been read, all from storage."""
        return {"checkpoint": self._num_bytes}

    def names(self, group: str) -> list[str]:
        """The logical names that a group holds, in pieces or whole."""
        if group != MODEL_GROUP:
            whole = [name for held, name, _ in self._places if held == group]
            return [*whole, *(name for held, name in self._spans if held == group)]
        return [name for name, _ in self.manifest.tensors.logical()]

    def read(self, group: str, name: str) -> Tensor:
        """A logical tensor, or by its name a piece of one, on the CPU, in memory of its own. It
        does not matter in which pieces it was stored.

        Raises `CheckpointError` when the checkpoint has no such tensor, or when its bytes are not
        those written.
        """
        if group != MODEL_GROUP:
            owned = piece_named(name)
            if owned is None:
                return self._load(group, name, None)
            return self._load(group, owned.tensor, None, part=(owned.begin, owned.end))
        if self._names is None:
            raise CheckpointError(
                f"{self.directory}: {name}: reading the model needs `names`, "
                "the reading model's map"
            )
        values = {}
        for piece in self._names.pieces(name):
            part = None if piece.span is None else (piece.span.begin, piece.span.end)
            values[piece.name] = self._load(group, piece.name, piece.row, piece, part)
        return self._names.from_disk(name, values)

    def close(self) -> None:
        """Close the files."""
        self._last = None
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _load(
        self,
        group: str,
        name: str,
        row: int | None,
        wanted: Piece | None = None,
        part: _Range | None = None,
    ) -> Tensor:
        """`part`: elements of the tensor, flat; None: all of it."""
        place = self._places.get((group, name, row))
        spans = self._spans.get((group, name), []) if row is None else []
        if place is None and not spans:
            label = name if row is None else f"{name}[{row}]"
            raise MisfitError(
                f"{self.directory}: holds no {group} {label}; it is of another model, or was saved "
                "without it; go on from another checkpoint (--step)"
            )
        entry = spans[0][1] if place is None else place[1]
        if wanted is not None:
            self._check_fit(entry, wanted)
        if entry.dtype not in TORCH_DTYPES:
            raise MisfitError(
                f"{self.directory}: {entry.label} is {entry.dtype}, which no model has; "
                "go on from another checkpoint (--step)"
            )
        if not entry.shape:  # a number, which all pieces of a tensor have
            return self._tensor(*(place or spans[0]))
        if place is None:
            return self._joined(spans, part)
        return self._tensor(*place) if part is None else self._part_of(place, part)

    def _part_of(self, place: _Place, part: _Range) -> Tensor:
        """Of a tensor that was stored whole, whose digest is that of all of it."""
        file, entry = place
        if self._last is None or self._last[0] != entry.key:
            self._last = None  # the former goes first
            self._last = entry.key, self._tensor(file, entry)
        self._check_end(entry, part, math.prod(entry.shape))
        return self._last[1].view(-1)[slice(*part)].clone()

    def _joined(self, spans: Sequence[_Place], part: _Range | None) -> Tensor:
        """Of a tensor that was stored in pieces, which need not end where `part` does."""
        first = _span(spans[0][1])
        begin, end = part or (0, math.prod(first.shape))
        self._check_end(spans[0][1], (begin, end), _span(spans[-1][1]).end)
        found: list[Tensor] = []
        for file, entry in spans:
            span = _span(entry)
            if span.begin < end and begin < span.end:
                its = slice(max(begin - span.begin, 0), min(end, span.end) - span.begin)
                found.append(self._tensor(file, entry)[its])
        # One alone is in memory of its own, unless it is a part of what was read.
        is_one = len(found) == 1 and found[0].untyped_storage().nbytes() == found[0].nbytes
        flat = found[0] if is_one else torch.cat(found)
        return flat.view(first.shape) if part is None else flat

    def _check_end(self, entry: Entry, part: _Range, end: int) -> None:
        if part[1] > end:
            raise MisfitError(
                f"{self.directory}: {entry.label} is of a tensor of {end} elements, but those up "
                f"to {part[1]} are asked for; it is of another model: go on with the model that "
                "the run began with, or from another checkpoint (--step)"
            )

    def _check_fit(self, entry: Entry, wanted: Piece) -> None:
        """MisfitError where the model has a tensor of another shape or dtype by this name."""
        shape = entry.shape if entry.span is None else entry.span.shape
        due_shape = wanted.shape if wanted.span is None else wanted.span.shape
        if shape != due_shape:
            there, due = f"has shape {shape}", str(due_shape)
        elif entry.dtype != wanted.disk.dtype:
            there, due = f"is {entry.dtype}", wanted.disk.dtype
        else:
            return
        raise MisfitError(
            f"{self.directory}: {entry.label} {there}, but the model has {due}; resume with the "
            "model that the run began with, or from another checkpoint (--step)"
        )

    def _tensor(self, file: str, entry: Entry) -> Tensor:
        where = f"{self.directory / file}: {entry.label}"
        # Read into the tensor's own memory: a large expert is never held twice.
        data = torch.empty(entry.num_bytes, dtype=torch.uint8)
        view = data.numpy().data
        try:
            read_into(self._open(file), view, entry.offset)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        actual = digest(view)
        if actual != entry.digest:
            raise CheckpointError(
                f"{where}: digest {actual}, written as {entry.digest}; "
                "the file was damaged, use another checkpoint"
            )
        count = num_not_finite(view, entry.dtype)
        if count:
            raise CheckpointError(
                f"{where}: holds {not_finite_words(count)}; use another checkpoint"
            )
        self._num_bytes += entry.num_bytes
        return data.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def _open(self, file: str) -> int:
        # Kept open: a worker reads thousands of ranges of few files.
        if file not in self._files:
            self._files[file] = open_file(self.directory / file)
        return self._files[file]


def _begin(place: _Place) -> int:
    return _span(place[1]).begin


def _span(entry: Entry) -> TensorSpan:
    assert entry.span is not None, "it is one of a tensor's pieces"
    return entry.span
