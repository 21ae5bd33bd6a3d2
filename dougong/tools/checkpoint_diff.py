"""Where two checkpoints differ, tensor by tensor and bit by bit. Imports no torch.

Tensors are matched by name, so it does not matter how many workers wrote them into which files, nor
in which pieces.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dougong.checkpoint.disk import digest, open_file, read_into
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, Manifest
from dougong.errors import CheckpointError
from dougong.parallel.pieces import tensor_of
from dougong.tools.difference import (
    Comparison,
    Difference,
    NaturalOrder,
    count_different,
    natural_order,
)

_Key = tuple[str, str, int | None]
"""(group, name, row)."""


def diff_checkpoints(a: Path, b: Path, trust_digests: bool = False) -> Comparison:
    """Compare two checkpoints, tensor by tensor.

    Every byte is read; with `trust_digests`, tensors of equal digests in both manifests are taken
    as equal unread. Raises `CheckpointError` for a checkpoint without a whole manifest.
    """
    with closing(_Side(a)) as left, closing(_Side(b)) as right:
        step, other_step = left.manifest.step, right.manifest.step
        found = []
        if step != other_step:
            found.append(Difference(step, "step", note=f"{step} and {other_step}"))
        keys = sorted(left.tensors.keys() | right.tensors.keys(), key=_model_order)
        for key in keys:
            difference = _compare(key, left, right, trust_digests)
            if difference is not None:
                found.append(difference)
        return Comparison(f"{len(keys)} tensors of step {step}", tuple(found))


@dataclass(frozen=True)
class _Stored:
    """One tensor, or row, of a checkpoint. `places`: of its bytes, in order: one, or one a
    piece."""

    label: str
    dtype: str
    shape: tuple[int, ...]
    places: tuple[tuple[Path, Entry], ...]

    @property
    def digests(self) -> list[tuple[int, str]]:
        """With the bytes that each is of."""
        return [(entry.num_bytes, entry.digest) for _, entry in self.places]

    @staticmethod
    def of(places: list[tuple[Path, Entry]]) -> _Stored:
        """Of all that has one key."""
        _, first = places[0]
        if first.span is None:
            return _Stored(first.label, first.dtype, first.shape, tuple(places))
        label = tensor_of(first.label)
        if not first.shape:  # a number, which all pieces have
            numbers = {entry.digest: (path, entry) for path, entry in places}
            return _Stored(label, first.dtype, (), tuple(numbers.values()))
        places.sort(key=lambda place: 0 if place[1].span is None else place[1].span.begin)
        return _Stored(label, first.dtype, first.span.shape, tuple(places))


class _Side:
    """One checkpoint's tensors, read when they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = Manifest.load(directory)
        places: dict[_Key, list[tuple[Path, Entry]]] = {}
        for file, entry in self.manifest.entries():
            key = entry.group, entry.name, entry.row
            places.setdefault(key, []).append((directory / file, entry))
        self.tensors = {key: _Stored.of(of_tensor) for key, of_tensor in places.items()}
        self._open: dict[Path, int] = {}

    def read(self, stored: _Stored) -> bytearray:
        """All of it."""
        data = bytearray(sum(entry.num_bytes for _, entry in stored.places))
        begin = 0
        for file, entry in stored.places:
            self._read_into(memoryview(data)[begin : begin + entry.num_bytes], file, entry)
            begin += entry.num_bytes
        return data

    def _read_into(self, view: memoryview, file: Path, entry: Entry) -> None:
        try:
            if file not in self._open:
                self._open[file] = open_file(file)
            read_into(self._open[file], view, entry.offset)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{file}: {entry.label}: {error}") from error

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _compare(key: _Key, left: _Side, right: _Side, trust_digests: bool) -> Difference | None:
    step = left.manifest.step
    for side, other in ((left, right), (right, left)):
        if key not in other.tensors:
            label = side.tensors[key].label
            return Difference(step, label, note=f"only in {side.directory}")
    a, b = left.tensors[key], right.tensors[key]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(step, a.label, note=f"{a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if trust_digests and a.digests == b.digests:
        return None
    return _compare_bytes(key, left, right)


def _compare_bytes(key: _Key, left: _Side, right: _Side) -> Difference | None:
    """Of a tensor that both sides have in one shape and dtype."""
    a, b = left.tensors[key], right.tensors[key]
    a_bytes, b_bytes = left.read(a), right.read(b)
    if a_bytes == b_bytes:
        return None
    damaged = []
    for side, stored, data in ((left, a, a_bytes), (right, b, b_bytes)):
        if not _is_as_written(stored, data):
            damaged.append(str(side.directory))
    note = ""
    if damaged:
        note = f"not what its manifest says: {', '.join(damaged)}; see `dougong verify`"
    if len(a_bytes) != len(b_bytes):
        return Difference(left.manifest.step, a.label, note=note or "its pieces' numbers differ")
    num_different, largest = count_different(a_bytes, b_bytes, a.dtype)
    num_elements = int(np.prod(a.shape, dtype=np.int64))
    return Difference(left.manifest.step, a.label, num_different, num_elements, largest, note)


def _is_as_written(stored: _Stored, data: bytearray) -> bool:
    begin = 0
    for _, entry in stored.places:
        if digest(data[begin : begin + entry.num_bytes]) != entry.digest:
            return False
        begin += entry.num_bytes
    return True


def _model_order(key: _Key) -> tuple[bool, str, NaturalOrder, int]:
    """The model before the optimizer's state; a tensor before its experts' rows."""
    group, name, row = key
    return (group != MODEL_GROUP, group, natural_order(name), -1 if row is None else row)
