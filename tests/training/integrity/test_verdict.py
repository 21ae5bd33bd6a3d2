"""Whose numbers are wrong, where two computations do not agree."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.training.integrity.verdict import (
    GRADIENTS,
    LOSSES,
    MESSAGES,
    Computed,
    Disagreement,
    Opinions,
    accused,
    first_disagreement,
)

ROWS, OUTPUTS = (MESSAGES, 0, "rows, to worker 1"), (MESSAGES, 1, "outputs, to worker 0")
LOSS, GRADIENT = (LOSSES, 0, "the loss"), (GRADIENTS, 0, "the gradient")


def computed(**changes: int) -> Computed:
    numbers: dict[Any, int] = {ROWS: 1, OUTPUTS: 2, LOSS: 3, GRADIENT: 2**64 - 1}
    named = {"rows": ROWS, "outputs": OUTPUTS, "loss": LOSS, "gradient": GRADIENT}
    return Computed(numbers | {named[name]: value for name, value in changes.items()})


def test_numbers_travel_as_they_are() -> None:
    one = computed()
    assert Computed.decode(one.encode()).numbers == one.numbers
    assert one.digest == computed().digest != computed(loss=4).digest


def test_the_first_in_the_order_of_the_step_counts() -> None:
    """What follows from it differs, too, on other workers."""
    honest = [computed(), computed()]
    assert first_disagreement(honest, [computed(), computed()]) is None
    spoilt = [computed(loss=8, gradient=9), computed(outputs=7, gradient=9)]
    assert first_disagreement(honest, spoilt) == Disagreement(OUTPUTS, 1)


@pytest.mark.parametrize(("owners", "others", "expected"), [
    ((1, 2), (2, 2), (0,)),  # once wrong: right when it is computed again
    ((2, 2), (1, 2), (1,)),
    ((2, 2), (1, 1), (0, 1)),  # each sticks to its own
    ((1, 2), (3, 4), (0, 1)),
])  # fmt: skip
def test_who_gives_other_bits_from_one_time_to_the_next_is_wrong(
    owners: tuple[int, int], others: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert accused(Opinions(0, 1, owners, others)) == expected
    assert accused(Opinions(0, 0, owners, others)) == (0,), "who has computed it again by itself"


@pytest.mark.parametrize(("third", "expected"), [(2, (1,)), (1, (0,)), (7, (0, 1)), (None, (0, 1))])
def test_where_each_sticks_to_its_own_a_third_one_tells(third: int | None, expected: tuple[int, ...]) -> None:
    assert accused(Opinions(0, 1, (2, 2), (1, 1)), third) == expected


def test_what_comes_by_chance_on_both_is_not_told_by_a_third() -> None:
    assert accused(Opinions(0, 1, (1, 2), (3, 4)), third=2) == (0, 1)
