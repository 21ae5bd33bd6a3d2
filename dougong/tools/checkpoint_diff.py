"""Where two checkpoints differ, tensor by tensor and bit by bit. Imports no torch.

Tensors are matched by name, so it does not matter how many workers wrote them into which files.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.disk import digest, open_file, read_into
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, EntryKey, Manifest
from dougong.checkpoint.tensorfile import as_array
from dougong.errors import CheckpointError
from dougong.tools.difference import Comparison, Difference, NaturalOrder, natural_order


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
        keys = sorted(left.entries.keys() | right.entries.keys(), key=_model_order)
        for key in keys:
            difference = _compare(key, left, right, trust_digests)
            if difference is not None:
                found.append(difference)
        return Comparison(f"{len(keys)} tensors of step {step}", tuple(found))


class _Side:
    """One checkpoint's tensors, read when they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = Manifest.load(directory)
        self.entries: dict[EntryKey, Entry] = {}
        self._files: dict[EntryKey, Path] = {}
        for file, entry in self.manifest.entries():
            self.entries[entry.key] = entry
            self._files[entry.key] = directory / file
        self._open: dict[Path, int] = {}

    def read(self, key: EntryKey) -> bytearray:
        entry, file = self.entries[key], self._files[key]
        data = bytearray(entry.num_bytes)
        try:
            if file not in self._open:
                self._open[file] = open_file(file)
            read_into(self._open[file], memoryview(data), entry.offset)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{file}: {entry.label}: {error}") from error
        return data

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _compare(key: EntryKey, left: _Side, right: _Side, trust_digests: bool) -> Difference | None:
    step = left.manifest.step
    for side, other in ((left, right), (right, left)):
        if key not in other.entries:
            label = side.entries[key].label
            return Difference(step, label, note=f"only in {side.directory}")
    a, b = left.entries[key], right.entries[key]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(step, a.label, note=f"{a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if trust_digests and a.digest == b.digest:
        return None
    return _compare_bytes(key, left, right)


def _compare_bytes(key: EntryKey, left: _Side, right: _Side) -> Difference | None:
    """Of a tensor that both sides have in one shape and dtype."""
    entry = left.entries[key]
    a_bytes, b_bytes = left.read(key), right.read(key)
    if a_bytes == b_bytes:
        return None
    damaged = []
    for side, data in ((left, a_bytes), (right, b_bytes)):
        if digest(data) != side.entries[key].digest:
            damaged.append(str(side.directory))
    note = ""
    if damaged:
        note = f"not what its manifest says: {', '.join(damaged)}; see `dougong verify`"
    num_different, largest = _count(a_bytes, b_bytes, entry.dtype)
    num_elements = int(np.prod(entry.shape, dtype=np.int64))
    return Difference(left.manifest.step, entry.label, num_different, num_elements, largest, note)


def _count(a: bytearray, b: bytearray, dtype: str) -> tuple[int, float | None]:
    """(elements that differ in their bits, the largest difference of those finite in both)."""
    x, y = as_array(a, dtype), as_array(b, dtype)
    # Bits, not values: 0.0 and -0.0 differ, and a NaN equals itself.
    bits = np.dtype(f"u{x.itemsize}")
    different = x.view(bits) != y.view(bits)
    num_different = int(different.sum())
    if x.dtype.kind not in "fiu":
        return num_different, None
    x_values = x[different].astype(np.float64)
    y_values = y[different].astype(np.float64)
    return num_different, _largest_gap(x_values, y_values)


def _largest_gap(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    finite = np.isfinite(x) & np.isfinite(y)
    gaps = np.abs(x[finite] - y[finite])
    return float(gaps.max()) if gaps.size else None


def _model_order(key: EntryKey) -> tuple[bool, str, NaturalOrder, int]:
    """The model before the optimizer's state; a tensor before its experts' rows."""
    group, name, row = key
    return (group != MODEL_GROUP, group, natural_order(name), -1 if row is None else row)
