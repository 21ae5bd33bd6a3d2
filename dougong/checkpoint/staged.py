"""Tensors in staging memory on their way to a file: what a writer looks at, digests and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dougong.checkpoint.disk import digest, write_at
from dougong.checkpoint.manifest import MODEL_GROUP, Entry
from dougong.checkpoint.tensorfile import (
    FileLayout,
    TensorShape,
    not_finite_words,
    num_not_finite,
)
from dougong.errors import NumericsError


@dataclass(frozen=True)
class Staged:
    """One tensor, or one row of a shared tensor, in staging memory.

    `file`: where it goes, under the checkpoint's directory. `key`: its name in that file.
    """

    file: str
    group: str
    name: str
    key: str
    row: int | None
    shape: TensorShape
    memory: Tensor

    @property
    def data(self) -> memoryview:
        return self.memory.reshape(-1).view(torch.uint8).numpy().data


def refuse_not_finite(path: Path, staged: list[Staged]) -> None:
    """A step with a finite loss and gradient can still end in a state that is not: its update was
    too large. Looked at here, beside training, and before anything of it becomes a checkpoint."""
    for item in staged:
        count = num_not_finite(item.data, item.shape.dtype)
        if count:
            label = item.name if item.group == MODEL_GROUP else f"{item.group} of {item.name}"
            raise NumericsError(
                f"checkpoint {path.parent.parent.name}: {label} holds {not_finite_words(count)} "
                "after its update, so no checkpoint is made of this step; those before it are "
                "kept; begin anew with a lower optimizer.lr or an optimizer.clip_norm"
            )


def entry_of(layout: FileLayout, staged: Staged) -> Entry:
    shape = staged.shape
    return Entry(
        group=staged.group,
        name=staged.name,
        row=staged.row,
        offset=layout.offsets[staged.key] + (staged.row or 0) * shape.num_bytes,
        num_bytes=shape.num_bytes,
        dtype=shape.dtype,
        shape=shape.shape,
        digest=digest(staged.data),
    )


def write_entries(fd: int, entries: tuple[Entry, ...], staged: list[Staged]) -> None:
    for entry, item in zip(entries, staged, strict=True):
        write_at(fd, item.data, entry.offset)
