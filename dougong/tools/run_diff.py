"""Where two checkpoints, or two runs, first differ. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dougong.checkpoint.directories import MANIFEST, list_committed
from dougong.errors import CheckpointError
from dougong.records.directory import RunDir
from dougong.tools.checkpoint_diff import diff_checkpoints
from dougong.tools.difference import Comparison, Difference
from dougong.tools.experts.against import compare
from dougong.tools.experts.contents import absent_words, is_weights
from dougong.tools.ledger_diff import common_steps, differences_of_step, first_split
from dougong.tools.step_record import StepRecord, StepRecords, read_records, same_number
from dougong.ui.formatting import plural, ranges


def diff(a: Path, b: Path, trust_digests: bool = False) -> Comparison:
    """Compare two checkpoints (directories with manifest.json), two runs, or two Hugging Face
    folders, of which one may be a checkpoint.

    Of runs: the metrics of each step (of its last generation). Where both kept a ledger, the first
    step whose digests differ, and what of it; where they agree in it or have none, the checkpoints
    of the steps that both have, up to the first that differs. `trust_digests`: as for
    `diff_checkpoints`. Raises `CheckpointError` when the two cannot be compared.
    """
    kinds = [(path / MANIFEST).is_file() for path in (a, b)]
    if all(kinds):
        return diff_checkpoints(a, b, trust_digests)
    if all(map(is_weights, (a, b))):
        return compare(a, b)
    if any(map(is_weights, (a, b))):
        _refuse_absent((a, b))
        raise CheckpointError(
            f"{a} and {b}: one holds a model's weights and one does not; give two checkpoints or "
            "Hugging Face folders, or two runs"
        )
    return diff_runs(RunDir.open(a), RunDir.open(b), trust_digests)


def _refuse_absent(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_dir():
            raise CheckpointError(absent_words(path))


def diff_runs(a: RunDir, b: RunDir, trust_digests: bool = False) -> Comparison:
    """Compare two runs' metrics and ledgers and, unless the ledgers part, common checkpoints.

    What only the longer run has is told apart: it is no difference.
    """
    a_records, b_records = read_records(a), read_records(b)
    beyond = _beyond(a_records, b_records)
    num_ledger_steps = len(common_steps(a_records, b_records))
    split = first_split(a_records, b_records)
    if split is not None:
        differences = _up_to_split((a, b), a_records, b_records, split)
        compared = f"the ledger of {plural(num_ledger_steps, 'step')}"
        return Comparison(compared, tuple(differences), "", beyond)
    checkpoints, different = _compare_checkpoints(a, b, trust_digests)
    common = a_records.keys() & b_records.keys()
    if not common and not checkpoints:
        raise CheckpointError(
            f"{a.path} and {b.path}: no step and no checkpoint in common; "
            "there is nothing to compare"
        )
    found = _in_order([*_compare_metrics(a_records, b_records), *different])
    compared = _compared(len(common), num_ledger_steps, checkpoints)
    return Comparison(compared, found, _steps_words(common), beyond)


def _beyond(a: StepRecords, b: StepRecords) -> str:
    """Which steps only one of two runs has, such as `A goes on to 70`; empty where there are
    none."""
    words = []
    last_common = max(a.keys() & b.keys(), default=0)
    for name, only in (("A", a.keys() - b.keys()), ("B", b.keys() - a.keys())):
        if not only:
            continue
        if last_common and min(only) > last_common:
            words.append(f"{name} goes on to {max(only)}")
        else:
            words.append(f"only {name} has {_steps_words(only)}")
    return ", ".join(words)


def _steps_words(steps: Iterable[int]) -> str:
    """`steps 1-60`, `step 7`; where runs have no step in common, what they have."""
    known = list(steps)
    if not known:
        return "the checkpoints"
    return f"{'step' if len(known) == 1 else 'steps'} {ranges(known)}"


def _in_order(differences: list[Difference]) -> tuple[Difference, ...]:
    """By step; within a step as they were found."""
    return tuple(sorted(differences, key=lambda difference: difference.step or 0))


def _compared(num_steps: int, num_ledger_steps: int, checkpoints: list[int]) -> str:
    """What was looked at, in words."""
    ledger = f" and the ledger of {num_ledger_steps}" if num_ledger_steps else ""
    steps = ", ".join(map(str, checkpoints)) or "none in common"
    return f"metrics of {plural(num_steps, 'step')}{ledger}, checkpoints of steps: {steps}"


def _up_to_split(
    runs: tuple[RunDir, RunDir], a: StepRecords, b: StepRecords, split: int
) -> list[Difference]:
    """What differs in the first step whose digests do. Metrics outside the ledger that differ
    before it come first."""
    a_before = {step: record for step, record in a.items() if step < split}
    b_before = {step: record for step, record in b.items() if step < split}
    found = _compare_metrics(a_before, b_before)
    for name, note in differences_of_step(runs, (a[split], b[split])):
        found.append(Difference(split, name, note=note))
    return found


def _compare_metrics(a: StepRecords, b: StepRecords) -> list[Difference]:
    """What differs in the steps that both have."""
    found = []
    ends = {max(records, default=0) for records in (a, b)}
    for step in sorted(a.keys() & b.keys()):
        found += _compare_step(a[step], b[step], is_an_end=step in ends)
    return found


def _compare_step(a: StepRecord, b: StepRecord, is_an_end: bool) -> list[Difference]:
    numbers = [("loss", a.loss, b.loss), ("grad_norm", a.grad_norm, b.grad_norm)]
    # Every run is validated after its last step, where a longer one may have gone on without.
    only_at_the_end = is_an_end and None in (a.val_loss, b.val_loss)
    if not only_at_the_end:
        numbers.insert(1, ("val_loss", a.val_loss, b.val_loss))
    return [
        Difference(a.step, name, note=f"{x!r} and {y!r}")
        for name, x, y in numbers
        if not same_number(x, y)
    ]


def _compare_checkpoints(
    a: RunDir, b: RunDir, trust_digests: bool
) -> tuple[list[int], tuple[Difference, ...]]:
    """(steps whose checkpoints were compared, what differs in the last of them)."""
    a_paths, b_paths = _committed(a), _committed(b)
    steps = []
    for step in sorted(a_paths.keys() & b_paths.keys()):
        steps.append(step)
        comparison = diff_checkpoints(a_paths[step], b_paths[step], trust_digests)
        if not comparison.equal:
            return steps, comparison.differences
    return steps, ()


def _committed(run: RunDir) -> dict[int, Path]:
    # list_committed gives the newest first; of two checkpoints of a step the newer one counts.
    return {found.step: found.path for found in reversed(list_committed(run.checkpoints))}
