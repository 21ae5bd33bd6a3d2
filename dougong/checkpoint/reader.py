"""Reading a checkpoint tensor by tensor, each verified before it is handed out."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.disk import digest, open_file, read_into
from dougong.checkpoint.huggingface import Names
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, Manifest
from dougong.checkpoint.parameters import TORCH_DTYPES, Piece
from dougong.checkpoint.tensorfile import not_finite_words, num_not_finite
from dougong.errors import CheckpointError, MisfitError


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
        self._places = {entry.key: (file, entry) for file, entry in self.manifest.entries()}
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
        """The logical names that a group holds."""
        if group != MODEL_GROUP:
            return [name for held, name, _ in self._places if held == group]
        return [name for name, _ in self.manifest.tensors.logical()]

    def read(self, group: str, name: str) -> Tensor:
        """A logical tensor, on the CPU, in memory of its own.

        Raises `CheckpointError` when the checkpoint has no such tensor, or when its bytes are not
        those written.
        """
        if group != MODEL_GROUP:
            return self._load(group, name, None)
        if self._names is None:
            raise CheckpointError(
                f"{self.directory}: {name}: reading the model needs `names`, "
                "the reading model's map"
            )
        values = {}
        for piece in self._names.pieces(name):
            values[piece.name] = self._load(group, piece.name, piece.row, piece)
        return self._names.from_disk(name, values)

    def close(self) -> None:
        """Close the files."""
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

    def _load(self, group: str, name: str, row: int | None, wanted: Piece | None = None) -> Tensor:
        place = self._places.get((group, name, row))
        if place is None:
            label = name if row is None else f"{name}[{row}]"
            raise MisfitError(
                f"{self.directory}: holds no {group} {label}; "
                "it is of another model, or was saved without it"
            )
        file, entry = place
        if wanted is not None:
            self._check_fit(entry, wanted)
        if entry.dtype not in TORCH_DTYPES:
            raise MisfitError(
                f"{self.directory}: {entry.label} is {entry.dtype}, which no model has; "
                "go on from another checkpoint (--step)"
            )
        return self._tensor(file, entry)

    def _check_fit(self, entry: Entry, wanted: Piece) -> None:
        """MisfitError where the model has a tensor of another shape or dtype by this name."""
        if entry.shape != wanted.shape:
            there, due = f"has shape {entry.shape}", str(wanted.shape)
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
