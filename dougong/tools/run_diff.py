"""Where two checkpoints, or two runs, first differ, bit by bit. Imports no torch.

Tensors are matched by name, so it does not matter how many workers wrote them into which files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dougong.checkpoint.directories import MANIFEST, list_committed
from dougong.checkpoint.disk import digest, read_into
from dougong.checkpoint.manifest import MODEL_GROUP, Entry, EntryKey, Manifest
from dougong.checkpoint.tensorfile import as_array
from dougong.errors import CheckpointError
from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow
from dougong.tools.ledger_diff import (
    common_steps,
    differences_of_step,
    first_split,
    natural,
    same_number,
)

METRICS = ("loss", "val_loss", "grad_norm")


@dataclass(frozen=True)
class Difference:
    """One tensor, or one number of a step's metrics, that differs.

    `num_different` of `num_elements` differ in their bits; `largest` is the largest difference of
    their values, None where values cannot be subtracted. `note` says more: a tensor missing, a file
    that is not what its manifest says.
    """

    step: int
    name: str
    num_different: int = 1
    num_elements: int = 1
    largest: float | None = None
    note: str = ""

    def __str__(self) -> str:
        counts = f"{self.num_different} of {self.num_elements} elements differ"
        largest = "" if self.largest is None else f", by at most {self.largest:.6g}"
        plain = self.note if self.num_elements == 1 and self.note else counts + largest
        more = f" ({self.note})" if self.note and plain != self.note else ""
        return f"step {self.step}: {self.name}: {plain}{more}"


@dataclass(frozen=True)
class Comparison:
    """What `diff` found. `differences` are ordered by step, metrics first, then tensors in the
    model's order."""

    compared: str
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        return not self.differences

    @property
    def first(self) -> Difference | None:
        return self.differences[0] if self.differences else None

    def __str__(self) -> str:
        return "\n".join(self.lines(10))

    def lines(self, limit: int) -> list[str]:
        """What a person reads: the verdict, the first differences one a line, how many are left
        out."""
        if self.equal:
            return [f"equal, bit by bit: {self.compared}"]
        rest = len(self.differences) - limit
        more = [f"  and {rest} more"] if rest > 0 else []
        return [
            f"different: {self.compared}; first:",
            *(f"  {d}" for d in self.differences[:limit]),
            *more,
        ]


def diff(a: Path, b: Path, trust_digests: bool = False) -> Comparison:
    """Compare two checkpoints (directories with manifest.json) or two runs.

    Every byte is read; with `trust_digests`, tensors of equal digests in both manifests are taken
    as equal unread. Of runs: the metrics of each step (of its last attempt). Where both kept a
    ledger, the first step whose digests differ, and what of it; where they agree in it or have
    none, the checkpoints of the steps that both have, up to the first that differs. Raises
    `CheckpointError` when the two cannot be compared.
    """
    kinds = [(path / MANIFEST).is_file() for path in (a, b)]
    if all(kinds):
        return diff_checkpoints(a, b, trust_digests)
    if any(kinds):
        raise CheckpointError(
            f"{a} and {b}: one is a checkpoint and one is not; give two checkpoints or two runs"
        )
    return diff_runs(RunDir.open(a), RunDir.open(b), trust_digests)


def diff_checkpoints(a: Path, b: Path, trust_digests: bool = False) -> Comparison:
    """Compare two checkpoints, tensor by tensor. Raises `CheckpointError` for one without a whole
    manifest."""
    sides = (_Side(a), _Side(b))
    keys = sorted(sides[0].places.keys() | sides[1].places.keys(), key=_model_order)
    step = sides[0].manifest.step
    try:
        found = [d for key in keys if (d := _compare(step, key, sides, trust_digests)) is not None]
    finally:
        for side in sides:
            side.close()
    if sides[1].manifest.step != step:
        found.insert(0, Difference(step, "step", note=f"{step} and {sides[1].manifest.step}"))
    return Comparison(f"{len(keys)} tensors of step {step}", tuple(found))


def diff_runs(a: RunDir, b: RunDir, trust_digests: bool = False) -> Comparison:
    """Compare two runs' metrics, ledgers, and, unless the ledgers part, common checkpoints."""
    rows = a.latest_metrics(), b.latest_metrics()
    split, told = first_split(*rows), len(common_steps(*rows))
    if split is not None:
        return Comparison(
            f"the ledger of {told} steps", tuple(_compare_ledgers((a, b), rows, split))
        )
    found, num_steps = _compare_metrics(*rows)
    places = [{p.step: p.path for p in reversed(list_committed(run.checkpoints))} for run in (a, b)]
    common = sorted(places[0].keys() & places[1].keys())
    if num_steps == 0 and not common:
        raise CheckpointError(
            f"{a.path} and {b.path}: no step and no checkpoint in common; there is nothing to compare"
        )
    read = []
    for step in common:
        read.append(step)
        different = diff_checkpoints(places[0][step], places[1][step], trust_digests).differences
        found += different
        if different:
            break
    steps = ", ".join(map(str, read)) or "none in common"
    order = sorted(found, key=lambda d: d.step)
    ledger = f" and the ledger of {told}" if told else ""
    return Comparison(
        f"metrics of {num_steps} steps{ledger}, checkpoints of steps: {steps}", tuple(order)
    )


def _compare_ledgers(
    runs: tuple[RunDir, RunDir], rows: Sequence[Sequence[MetricsRow]], split: int
) -> list[Difference]:
    """What differs in the first step whose digests do. Metrics outside the ledger that differ
    before it come first."""
    before = [[row for row in side if row["step"] < split] for side in rows]
    a, b = (next(row for row in side if row["step"] == split) for side in rows)
    found, _ = _compare_metrics(*before)
    return found + [
        Difference(split, name, note=note) for name, note in differences_of_step(runs, (a, b))
    ]


def _compare_metrics(
    a: Sequence[MetricsRow], b: Sequence[MetricsRow]
) -> tuple[list[Difference], int]:
    rows = [{int(row["step"]): row for row in side} for side in (a, b)]
    found = []
    for step in sorted(rows[0].keys() | rows[1].keys()):
        pair = [side.get(step) for side in rows]
        if pair[0] is None or pair[1] is None:
            found.append(
                Difference(step, "metrics", note=f"only in {'B' if pair[0] is None else 'A'}")
            )
            continue
        for key in METRICS:
            x, y = pair[0].get(key), pair[1].get(key)
            if not same_number(x, y):
                found.append(Difference(step, key, note=f"{x!r} and {y!r}"))
    return found, len(rows[0].keys() & rows[1].keys())


class _Side:
    """One checkpoint's tensors, read on demand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = Manifest.load(directory)
        self.places: dict[EntryKey, tuple[str, Entry]] = {
            e.key: (file, e) for file, e in self.manifest.entries()
        }
        self._open: dict[str, int] = {}

    def read(self, key: EntryKey) -> bytearray:
        file, entry = self.places[key]
        data = bytearray(entry.num_bytes)
        try:
            if file not in self._open:
                self._open[file] = os.open(self.directory / file, os.O_RDONLY | os.O_CLOEXEC)
            read_into(self._open[file], memoryview(data), entry.offset)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{self.directory / file}: {entry.label}: {error}") from error
        return data

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def _compare(
    step: int, key: EntryKey, sides: tuple[_Side, _Side], trust_digests: bool
) -> Difference | None:
    entries = [side.places[key][1] if key in side.places else None for side in sides]
    a, b = entries
    if a is None or b is None:
        there = a or b
        assert there is not None
        return Difference(
            step, there.label, note=f"only in {sides[0 if b is None else 1].directory}"
        )
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return Difference(step, a.label, note=f"{a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if trust_digests and a.digest == b.digest:
        return None
    data = [side.read(key) for side in sides]
    if data[0] == data[1]:
        return None
    damaged = [
        str(side.directory)
        for side, entry, raw in zip(sides, (a, b), data, strict=True)
        if digest(raw) != entry.digest
    ]
    note = (
        f"not what its manifest says: {', '.join(damaged)}; see `dougong verify`" if damaged else ""
    )
    num_different, largest = _count(data[0], data[1], a.dtype)
    return Difference(
        step, a.label, num_different, int(np.prod(a.shape, dtype=np.int64)), largest, note
    )


def _count(a: bytearray, b: bytearray, dtype: str) -> tuple[int, float | None]:
    """How many elements differ in their bits, and the largest difference of those that are finite
    in both."""
    x, y = as_array(a, dtype), as_array(b, dtype)
    bits = np.dtype(f"u{x.itemsize}")
    different = x.view(bits) != y.view(bits)
    if x.dtype.kind not in "fiu":
        return int(different.sum()), None
    values = [v[different].astype(np.float64) for v in (x, y)]
    finite = np.isfinite(values[0]) & np.isfinite(values[1])
    gaps = np.abs(values[0][finite] - values[1][finite])
    return int(different.sum()), float(gaps.max()) if gaps.size else None


def _model_order(key: EntryKey) -> tuple[bool, str, list[tuple[int, int, str]], int]:
    group, name, row = key
    return (group != MODEL_GROUP, group, natural(name), -1 if row is None else row)
