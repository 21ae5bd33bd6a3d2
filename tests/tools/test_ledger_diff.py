"""Where two ledgers part, out of records made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from dougong.checkpoint.ledger_file import LedgerWriter
from dougong.records.directory import RunDir
from dougong.tools.ledger_diff import common_steps, differences_of_step, first_split, tensors_of_step
from dougong.tools.step_record import StepRecord


def record(step: int, digest: str | None, loss: float = 3.0, gradients: str = "g", weights: str = "w") -> StepRecord:
    return StepRecord(step, 1, loss, None, None, digest, {"gradients": gradients, "weights": weights})


def by_step(*records: StepRecord) -> dict[int, StepRecord]:
    return {record.step: record for record in records}


def run_with(
    path: Path, gradients: list[int], weights: list[int], names: Sequence[str] = ("a.10", "a.2", "b")
) -> RunDir:
    """A run whose ledger keeps step 1 of these tensors, or pieces."""
    run = RunDir.create(path)
    writer = LedgerWriter(run.ledger, 1, "east/0", list(names))
    writer.append(1, [np.array(values, np.uint64) for values in (gradients, weights)])
    return run


def test_the_first_step_whose_digests_differ() -> None:
    a = by_step(record(1, "x"), record(2, "x"), record(3, "y"), record(4, "z"))
    b = by_step(record(1, "x"), record(2, None), record(3, "other"), record(4, "other"), record(5, "z"))
    assert common_steps(a, b) == [1, 3, 4]
    assert first_split(a, b) == 3
    assert first_split(a, a) is None


def test_tensors_are_named_gradients_first_in_natural_order(tmp_path: Path) -> None:
    runs = run_with(tmp_path / "a", [1, 2, 3], [4, 5, 6]), run_with(tmp_path / "b", [9, 8, 3], [4, 5, 7])
    pair = record(1, "x"), record(1, "y", loss=3.5, gradients="h", weights="v")
    assert differences_of_step(runs, pair) == [
        ("loss", "3.0 and 3.5"),
        ("gradient of a.2", f"checksums {2:016x} and {8:016x}"),
        ("gradient of a.10", f"checksums {1:016x} and {9:016x}"),
        ("weight of b", f"checksums {6:016x} and {7:016x}"),
    ]


def test_a_gradient_of_one_side_alone(tmp_path: Path) -> None:
    runs = run_with(tmp_path / "a", [1, 2, 3], [4, 5, 6]), run_with(tmp_path / "b", [1, 0, 3], [4, 5, 6])
    assert tensors_of_step(runs, (record(1, "x"), record(1, "y"))) == {
        ("gradient", "a.2"): f"checksums {2:016x} and none"
    }


def test_a_tensor_in_other_pieces_is_told_once_and_the_others_as_ever(tmp_path: Path) -> None:
    """As after a resume of a run of which large tensors had one owner."""
    whole = run_with(tmp_path / "a", [1, 2, 3], [4, 5, 6])
    cut = run_with(tmp_path / "b", [7, 8, 9, 3], [4, 5, 6, 7], ["a.10", "a.2[0:5]", "a.2[5:10]", "b"])
    assert tensors_of_step((whole, cut), (record(1, "x"), record(1, "y"))) == {
        ("gradient", "a.2"): "in 1 piece and 2 pieces, whose checksums do not compare; `dougong diff` of checkpoints",
        ("gradient", "a.10"): f"checksums {1:016x} and {7:016x}",
        ("weight", "a.2"): "in 1 piece and 2 pieces, whose checksums do not compare; `dougong diff` of checkpoints",
        ("weight", "b"): f"checksums {6:016x} and {7:016x}",
    }


def test_without_checksums_the_kind_alone_is_known(tmp_path: Path) -> None:
    runs = RunDir.create(tmp_path / "a"), RunDir.create(tmp_path / "b")
    pair = record(1, "x"), record(1, "y", weights="v")
    assert differences_of_step(runs, pair) == [
        ("weights", "which tensors is not known: their checksums are kept no more")
    ]


def test_a_step_that_does_not_differ_follows_from_the_one_before(tmp_path: Path) -> None:
    runs = RunDir.create(tmp_path / "a"), RunDir.create(tmp_path / "b")
    ((name, note),) = differences_of_step(runs, (record(1, "x"), record(1, "y")))
    assert name == "ledger" and "did not begin alike" in note
