"""A run that faults have struck, held against one that none has: final tensors, and what each step
has trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dougong.checkpoint.directories import list_committed
from dougong.checkpoint.manifest import Manifest
from dougong.records.directory import RunDir


@dataclass(frozen=True)
class RunDifference:
    """`tensors`: names of final weights and optimizer state that differ; `missing`: steps that have
    no line; `other`: steps that have trained on other samples, or to another loss. `why`: what
    cannot be compared at all."""

    tensors: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    other: tuple[int, ...] = ()
    why: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self == RunDifference()

    def __str__(self) -> str:
        if self.is_equal:
            return "the same bits"
        parts = []
        if self.why:
            parts.append(self.why)
        if self.tensors:
            first = ", ".join(self.tensors[:_TOLD])
            parts.append(f"{len(self.tensors)} tensors differ, such as {first}")
        if self.missing:
            parts.append(f"steps that were not done: {_numbers(self.missing)}")
        if self.other:
            parts.append(f"steps with other samples or losses: {_numbers(self.other)}")
        return "; ".join(parts)


_TOLD = 3
_DIGEST_BYTES = 8


Digests = Mapping[Any, str]
Rows = Mapping[int, tuple[Any, ...]]


def compare(struck: RunDir, undisturbed: RunDir, steps: int) -> RunDifference:
    """Both runs have ended; the second is whole."""
    digests, honest = _final_digests(struck, steps), _final_digests(undisturbed, steps)
    if not digests:
        return RunDifference(why=f"no checkpoint of step {steps}")
    return find_differences(digests, honest, _rows(struck), _rows(undisturbed))


def digest_of_run(run_dir: RunDir, steps: int) -> str:
    """Of final weights, optimizer state and all that the steps tell of their samples; empty where
    the run has not come to its end."""
    digests, rows = _final_digests(run_dir, steps), _rows(run_dir)
    if not digests or sorted(rows) != list(range(1, steps + 1)):
        return ""
    facts = [sorted((str(key), digest) for key, digest in digests.items()), sorted(rows.items())]
    text = json.dumps(facts, default=str)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def find_differences(
    digests: Digests, honest: Digests, rows: Rows, honest_rows: Rows
) -> RunDifference:
    """By tensor, the digests of the final state; by step, what it has trained on. Pure."""
    keys = sorted({*digests, *honest}, key=str)
    tensors = [str(key) for key in keys if digests.get(key) != honest.get(key)]
    missing = [step for step in honest_rows if step not in rows]
    other = [step for step, row in rows.items() if row != honest_rows.get(step)]
    return RunDifference(tuple(tensors), tuple(missing), tuple(sorted(other)))


def _final_digests(run_dir: RunDir, steps: int) -> dict[Any, str]:
    """By tensor, of the newest checkpoint of the last step."""
    for place in list_committed(run_dir.checkpoints):
        if place.step == steps:
            return {entry.key: entry.digest for _, entry in Manifest.load(place.path).entries()}
    return {}


def _rows(run_dir: RunDir) -> dict[int, tuple[Any, ...]]:
    """Of a step that was computed again the last."""
    return {row["step"]: _told_of(row) for row in run_dir.read_metrics()}


def _told_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a step tells of its samples: their number, their loss, and the ledger's digest, into
    which every gradient has gone."""
    return tuple(row.get(key) for key in ("tokens", "loss", "grad_norm", "ledger"))


def _numbers(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps[:_TOLD])) + (", ..." if len(steps) > _TOLD else "")
