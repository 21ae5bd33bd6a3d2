"""Whatever a check raises is an outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dougong.accelerators.cpu import Cpu
from dougong.conform.check import CPU, Bed, CannotTry, first_line, method, need_streams, outcome_of, require

BED = Bed(Cpu(), CPU, Path())


def nothing(bed: Bed) -> None: ...


def departs(bed: Bed) -> None:
    require(False, "it is wrong")


def lacks(bed: Bed) -> None:
    raise CannotTry("two are needed")


def fails(bed: Bed) -> None:
    raise RuntimeError("107002: context is empty\nand more")


def is_full(bed: Bed) -> None:
    raise torch.OutOfMemoryError("no more")


@pytest.mark.parametrize(
    ("run", "grade", "words", "remarks"),
    [
        (nothing, "sound", (), ()),
        (departs, "unsound", ("it is wrong",), ()),
        (lacks, "not run", (), ("two are needed",)),
        (need_streams, "not run", (), ("a processor has no streams and no memory of its own",)),
        (fails, "unsound", ("RuntimeError: 107002: context is empty",), ()),
        (is_full, "not run", (), ("OutOfMemoryError: no more",)),
    ],
)
def test_outcomes(run: Callable[[Bed], None], grade: str, words: tuple[str, ...], remarks: tuple[str, ...]) -> None:
    found = outcome_of(method("name", "group", "judged", run), BED)
    assert (found.name, found.group, found.judges) == ("name", "group", "judged")
    assert (found.grade, found.words, found.remarks) == (grade, words, remarks)


def test_an_error_without_words_is_its_class() -> None:
    assert first_line(ValueError()) == "ValueError"
