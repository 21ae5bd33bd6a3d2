"""Where two runs' ledgers part: the first step, and which of its loss, gradients and weights.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from dougong.checkpoint.ledger_file import KINDS, Checksums, read_step
from dougong.parallel.pieces import tensor_of
from dougong.records.directory import RunDir
from dougong.tools.difference import NaturalOrder, natural_order
from dougong.tools.step_record import StepRecord, StepRecords, same_number
from dougong.ui.formatting import plural

Runs = tuple[RunDir, RunDir]
Pair = tuple[StepRecord, StepRecord]
"""The same step as the two runs have recorded it."""
DifferingTensor = tuple[str, str]
"""(what differs, how)."""


def common_steps(a: StepRecords, b: StepRecords) -> list[int]:
    """Steps of which both runs have a ledger's digest."""
    return [step for step in sorted(a.keys() & b.keys()) if a[step].digest and b[step].digest]


def first_split(a: StepRecords, b: StepRecords) -> int | None:
    """The first common step whose digests differ; None when all agree."""
    for step in common_steps(a, b):
        if a[step].digest != b[step].digest:
            return step
    return None


def differences_of_step(runs: Runs, pair: Pair) -> list[DifferingTensor]:
    """What differs in one step of two runs.

    First the loss, then each tensor's gradient, then each tensor's weight, tensors in the order of
    their names.
    """
    a, b = pair
    found: list[DifferingTensor] = []
    if not same_number(a.loss, b.loss):
        found.append(("loss", f"{a.loss!r} and {b.loss!r}"))
    tensors = tensors_of_step(runs, pair)
    for kind in KINDS:
        if a.totals.get(f"{kind}s") != b.totals.get(f"{kind}s"):
            found += _differences_of_kind(kind, tensors)
    if not found:
        found.append(
            ("ledger", "the digests differ and this step does not: the runs did not begin alike")
        )
    return found


def tensors_of_step(runs: Runs, pair: Pair) -> dict[tuple[str, str], str]:
    """(kind, tensor) -> how its checksums differ.

    Empty where one of the runs no longer has the step's checksums of every tensor.
    """
    a, b = (_checksums(run, record) for run, record in zip(runs, pair, strict=True))
    if not a or not b:
        return {}
    found = {key: f"checksums {_hex(a, key)} and {_hex(b, key)}" for key in _differing(a, b)}
    found = _by_tensor_where_cut_otherwise(found, a, b)
    return {key: found[key] for key in sorted(found, key=_by_kind_and_name)}


def _differing(a: Checksums, b: Checksums) -> list[tuple[str, str]]:
    return [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]


def _by_tensor_where_cut_otherwise(
    found: Mapping[tuple[str, str], str], a: Checksums, b: Checksums
) -> dict[tuple[str, str], str]:
    """Of a tensor that one run has in other pieces than the other no checksums can be compared, so
    it is told once."""
    a_names, b_names = _names_by_tensor(a), _names_by_tensor(b)
    told: dict[tuple[str, str], str] = {}
    for (kind, name), note in found.items():
        its = kind, tensor_of(name)
        pieces = a_names.get(its, frozenset()), b_names.get(its, frozenset())
        if all(pieces) and pieces[0] != pieces[1]:
            cut = " and ".join(plural(len(names), "piece") for names in pieces)
            told[its] = f"in {cut}, whose checksums do not compare; `dougong diff` of checkpoints"
        else:
            told[kind, name] = note
    return told


def _names_by_tensor(checksums: Checksums) -> dict[tuple[str, str], frozenset[str]]:
    names: dict[tuple[str, str], set[str]] = {}
    for kind, name in checksums:
        names.setdefault((kind, tensor_of(name)), set()).add(name)
    return {key: frozenset(found) for key, found in names.items()}


def _differences_of_kind(
    kind: str, tensors: Mapping[tuple[str, str], str]
) -> list[DifferingTensor]:
    found = [
        (f"{kind} of {name}", note)
        for (its_kind, name), note in tensors.items()
        if its_kind == kind
    ]
    if not found:
        found = [(f"{kind}s", "which tensors is not known: their checksums are kept no more")]
    return found


def _checksums(run: RunDir, record: StepRecord) -> Checksums:
    return read_step(run.ledger, record.generation, record.step)


def _by_kind_and_name(key: tuple[str, str]) -> tuple[int, NaturalOrder]:
    kind, name = key
    return KINDS.index(kind), natural_order(name)


def _hex(checksums: Checksums, key: tuple[str, str]) -> str:
    return f"{checksums[key]:016x}" if key in checksums else "none"
