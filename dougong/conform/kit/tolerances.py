"""The table of tolerances of `docs/conform.md`, written from the bounds themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dougong.conform.judge import EPSILON, TF32, Exactness, tolerance_of
from dougong.conform.operators.experts import ROUNDINGS
from dougong.conform.steps import golden, segments

_BEGIN = "<!-- tolerances: written by schema/update.py -->"
_END = "<!-- end of tolerances -->"
_WORDS = {
    Exactness.MOVED: "values that are only moved, compared, sorted or cast",
    Exactness.EACH: "each value by itself (`exp`, `mul`, AdamW): of its own size",
    Exactness.SUMMED: "sums, norms, softmax, the loss: of the largest",
    Exactness.PRODUCT: "products, attention: of the largest",
}


def fill(page: str) -> str:
    """The page with a fresh table between its marks; ValueError when a mark is missing."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    rows = "\n".join((*_heads(), *_of_operators(), *_of_steps()))
    return f"{before}{_BEGIN}\n\n{rows}\n\n{_END}{after}"


def _heads() -> Iterator[str]:
    yield "| what is computed | float32 | bfloat16 | TF32 |"
    yield "|---|---|---|---|"


def _of_operators() -> Iterator[str]:
    for exactness, words in _WORDS.items():
        yield _row(words, *_bounds(exactness))
    rounded = f"an expert's rows and gradients, rounded {ROUNDINGS} times: of the largest"
    yield _row(rounded, *_bounds(Exactness.PRODUCT, ROUNDINGS))


def _bounds(exactness: Exactness, times: int = 1) -> Iterator[float | None]:
    for dtype in (torch.float32, torch.bfloat16):
        yield times * tolerance_of(exactness, dtype)
    is_product = exactness is Exactness.PRODUCT
    yield times * tolerance_of(exactness, torch.float32, tf32=True) if is_product else None


def _of_steps() -> Iterator[str]:
    single, narrow = segments.FACTOR * EPSILON[torch.float32], segments.TF32_FACTOR * TF32
    first = "a model's first segment, and as much more for each one before: of the largest"
    yield _row(first, single, None, narrow)
    bounds = ((golden.FIRST_STEPS, golden.FIRST_BOUND), (golden.STEPS, golden.BOUND))
    for steps, bound in bounds:
        words = f"the loss of the first {steps} steps of training: of the loss"
        yield _row(words, bound, None, golden.TF32_FACTOR * bound)


def _row(words: str, *bounds: float | None) -> str:
    cells = [_cell(bound) for bound in bounds]
    return f"| {words} | {' | '.join(cells)} |"


def _cell(bound: float | None) -> str:
    if bound is None:
        return "–"
    return f"{bound:.1e}" if bound else "none"
