"""The document's table of tolerances is what the checks allow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dougong.conform.judge import Exactness, tolerance_of
from dougong.conform.kit.tolerances import fill
from dougong.conform.operators.experts import ROUNDINGS
from dougong.conform.steps import golden, segments

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "conform.md"


def cells(words: str) -> list[str]:
    (row,) = (line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {words}"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_the_document_s_table_is_written_from_the_code() -> None:
    page = DOCUMENT.read_text()
    assert fill(page) == page, "run: python schema/update.py"


def test_what_experts_are_held_to_stands_there() -> None:
    single, half = (ROUNDINGS * tolerance_of(Exactness.PRODUCT, kind) for kind in (torch.float32, torch.bfloat16))
    narrow = ROUNDINGS * tolerance_of(Exactness.PRODUCT, torch.float32, tf32=True)
    assert [float(cell) for cell in cells("an expert's rows")] == pytest.approx([single, half, narrow], rel=0.05)


def test_what_steps_are_held_to_stands_there() -> None:
    single, _, narrow = cells("the loss of the first 50 steps")
    assert (float(single), float(narrow)) == (golden.BOUND, golden.TF32_FACTOR * golden.BOUND)
    assert float(cells("a model's first segment")[0]) == pytest.approx(segments.FACTOR * 2.0**-23, rel=0.05)


def test_a_page_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        fill("no marks")
