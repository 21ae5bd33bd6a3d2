"""What a row's bits depend on beside the row itself: its neighbours, their number, its place in
memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

import torch
from torch import Tensor

from dougong.conform.check import CPU
from dougong.conform.judge import same_bits
from dougong.conform.operators.case import ALIGNMENT, Case, given, placed, results


class MovedBy(Enum):
    """What a row's bits depend on."""

    NEIGHBOURS = "the values of other rows"
    NUMBER = "the number of rows"
    PLACE = "which multiple of 512 bytes it begins at"
    ALIGNMENT = "where it begins, below 512 bytes"


def is_fault(case: Case, what: MovedBy) -> bool:
    """Whether dougong rests on its not being so. Products and sums by row have one shape on every
    layout, and begin at multiples of 512 bytes."""
    if what is MovedBy.NUMBER:
        return case.by_row
    return what is not MovedBy.ALIGNMENT


def moves_with(
    case: Case, dtype: torch.dtype, device: torch.device, found: Sequence[Tensor]
) -> Iterator[MovedBy]:
    """Compute the first rows again in other surroundings. `found`: the case's own results."""
    count = _num_rows(case, dtype) // 2
    expected = _of_rows(case, found, count)
    inputs = given(case, dtype)
    others = list(inputs)
    for number in case.rows:
        rows = inputs[number]
        others[number] = torch.cat([rows[:count], rows[count:].flip(0)])
    if not _are_same(_computed(case, others, device, count), expected):
        yield MovedBy.NEIGHBOURS
    if not _are_same(_computed(case, _first(case, inputs, count), device, count), expected):
        yield MovedBy.NUMBER
    if _moves(case, inputs, device, expected, (ALIGNMENT,)):
        yield MovedBy.PLACE
    if _moves(case, inputs, device, expected, (128, 256)):
        yield MovedBy.ALIGNMENT


def _moves(
    case: Case,
    inputs: Sequence[Tensor],
    device: torch.device,
    expected: Sequence[Tensor],
    offsets: Sequence[int],
) -> bool:
    count = expected[0].shape[0]
    for offset in offsets:
        if not _are_same(_computed(case, inputs, device, count, offset), expected):
            return True
    return False


def _first(case: Case, inputs: Sequence[Tensor], count: int) -> list[Tensor]:
    fewer = list(inputs)
    for number in case.rows:
        fewer[number] = fewer[number][:count]
    return fewer


def _computed(
    case: Case, inputs: Sequence[Tensor], device: torch.device, count: int, offset: int = 0
) -> list[Tensor]:
    return _of_rows(case, results(case, placed(inputs, device, offset)), count)


def _of_rows(case: Case, found: Sequence[Tensor], count: int) -> list[Tensor]:
    """The first rows of the outputs, and of the gradients of rows."""
    num_outputs = len(found) - len(case.trained)
    wanted = list(found[:num_outputs])
    for number, gradient in zip(case.trained, found[num_outputs:], strict=True):
        if number in case.rows:
            wanted.append(gradient)
    return [tensor[:count].to(CPU) for tensor in wanted]


def _num_rows(case: Case, dtype: torch.dtype) -> int:
    return int(given(case, dtype)[case.rows[0]].shape[0])


def _are_same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))
