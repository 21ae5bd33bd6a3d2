"""Where two runs' ledgers part: the first step, and which of its loss, gradients and weights.
Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dougong.checkpoint.ledger_file import KINDS, read_step
from dougong.records.directory import RunDir
from dougong.records.metrics import MetricsRow

DifferingTensor = tuple[str, str]
"""(what differs, how)."""


def common_steps(a: Sequence[MetricsRow], b: Sequence[MetricsRow]) -> list[int]:
    """Steps that both ledgers tell of."""
    told = [{int(row["step"]) for row in rows if row.get("ledger")} for rows in (a, b)]
    return sorted(told[0] & told[1])


def first_split(a: Sequence[MetricsRow], b: Sequence[MetricsRow]) -> int | None:
    """The first common step whose digests differ; None when all agree."""
    digests = [{int(row["step"]): row.get("ledger") for row in rows} for rows in (a, b)]
    return next((step for step in common_steps(a, b) if digests[0][step] != digests[1][step]), None)


def differences_of_step(
    runs: tuple[RunDir, RunDir], rows: tuple[MetricsRow, MetricsRow]
) -> list[DifferingTensor]:
    """What differs in one step of two runs, given its two rows: the loss, each tensor's gradient,
    each tensor's weight, tensors in the order of their names."""
    found: list[DifferingTensor] = []
    if not same_number(rows[0]["loss"], rows[1]["loss"]):
        found.append(("loss", f"{rows[0]['loss']!r} and {rows[1]['loss']!r}"))
    kept = tensors_of_step(runs, rows)
    for kind in KINDS:
        totals = [row.get("checksums", {}).get(f"{kind}s") for row in rows]
        if totals[0] != totals[1]:
            tensors = [(f"{kind} of {name}", note) for (k, name), note in kept.items() if k == kind]
            found += tensors or [
                (f"{kind}s", "which tensors is not known: their checksums are kept no more")
            ]
    return found or [
        ("ledger", "the digests differ and this step does not: the runs did not begin alike")
    ]


def tensors_of_step(
    runs: tuple[RunDir, RunDir], rows: tuple[MetricsRow, MetricsRow]
) -> dict[tuple[str, str], str]:
    """(kind, tensor) -> how its checksums differ, for the tensors of which both runs have kept the
    step."""
    places = zip(runs, rows, strict=True)
    sides = [
        read_step(run.ledger, int(row.get("attempt", 1)), int(row["step"])) for run, row in places
    ]
    if not all(sides):
        return {}
    keys = sorted(
        sides[0].keys() | sides[1].keys(), key=lambda key: (KINDS.index(key[0]), natural(key[1]))
    )
    return {key: _note(key, sides) for key in keys if sides[0].get(key) != sides[1].get(key)}


def same_number(x: Any, y: Any) -> bool:
    """Whether two numbers of rows are the same; not-a-number is itself."""
    return bool(x == y or (x != x and y != y))


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as people do: layer 2 before layer 10."""
    return [(0, int(w), "") if w.isdigit() else (1, 0, w) for w in re.split(r"(\d+)", name)]


def _note(key: tuple[str, str], sides: Sequence[Mapping[tuple[str, str], int]]) -> str:
    words = [f"{side[key]:016x}" if key in side else "none" for side in sides]
    return f"checksums {words[0]} and {words[1]}"
