"""Which rows are the run's present history."""

from __future__ import annotations

import pytest
from dougong.records.metrics import live_rows, split_rows


def rows_of(*steps: tuple[int, int]) -> list[dict[str, int]]:
    return [{"generation": number, "step": step} for number, step in steps]


@pytest.mark.parametrize(
    ("written", "live"),
    [
        ([], []),
        ([(1, 1), (1, 2)], [(1, 1), (1, 2)]),
        ([(1, 1), (1, 2), (1, 3), (2, 2)], [(1, 1), (2, 2)]),  # step 3 of generation 1 is not today's history
        ([(1, 1), (1, 2), (2, 2), (2, 3), (3, 1)], [(3, 1)]),
        ([(1, 1), (2, 2), (3, 3)], [(1, 1), (2, 2), (3, 3)]),
    ],
)
def test_live_rows(written: list[tuple[int, int]], live: list[tuple[int, int]]) -> None:
    assert live_rows(rows_of(*written)) == rows_of(*live)


def test_split_rows_keeps_each_generations_stretch_apart() -> None:
    rows = [{"generation": a, "step": s} for a, s in [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3), (3, 4)]]
    live, rewound = split_rows(rows)
    assert [(r["generation"], r["step"]) for r in live] == [(1, 1), (2, 2), (3, 3), (3, 4)]
    assert [[(r["generation"], r["step"]) for r in stretch] for stretch in rewound] == [[(1, 2), (1, 3)], [(2, 3)]]
