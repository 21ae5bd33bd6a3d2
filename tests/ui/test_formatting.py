"""Values in words."""

from __future__ import annotations

import pytest
from dougong.ui import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0042, "4 ms"), (0.123, "0.12 s"), (4.2, "4.2 s"), (42.4, "42 s"), (65, "1:05"), (7389, "2:03:09"),
     (3 * 86400 + 4 * 3600 + 300, "3 d 04:05"), (float("nan"), "?"), (float("inf"), "?"), (-1, "0 ms")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (8012, "8,012"), (999_999, "999,999"), (1_234_567, "1.23 M"), (4.5e9, "4.50 B"), (2e12, "2.00 T"),
     (float("nan"), "nan")],
)  # fmt: skip
def test_count(number: float, text: str) -> None:
    assert formatting.count(number) == text


@pytest.mark.parametrize(("number", "text"), [(812, "812 B"), (3.4 * 2**20, "3.4 MiB"), (5 * 2**40, "5.0 TiB")])
def test_size(number: float, text: str) -> None:
    assert formatting.size(number) == text


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([3, 1, 2], "1-3"), ([0, 1, 5, 8, 9], "0-1, 5, 8-9")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert formatting.ranges(numbers) == text


def test_worker_list() -> None:
    names = ["east/10", "east/9", "west/1", "east/0", "driver", "east/1"]
    assert formatting.worker_list(names) == "east/0-1, east/9-10, west/1, driver"


def test_spans() -> None:
    assert formatting.spans([9, 0, 1, 5, 8, 8]) == [(0, 1), (5, 5), (8, 9)]


@pytest.mark.parametrize(
    ("experts", "text"),
    [
        ([], ""),
        ([(0, 1, 2), (0, 1, 2)], "0-2"),
        ([(0, 1), (0, 1), (), (5,)], "0-1 x2 | none | 5"),
        ([tuple(range(i)) for i in range(1, 12)], "1 to 11 a layer"),
    ],
)
def test_site_experts(experts: list[tuple[int, ...]], text: str) -> None:
    assert formatting.site_experts(experts) == text


def test_times_of_events() -> None:
    assert formatting.moment("2025-11-22T09:31:40.500Z") == "2025-11-22 09:31:40"
    assert formatting.local_clock("") == ""
    assert len(formatting.local_clock("2025-11-22T09:31:40.500Z")) == 8


@pytest.mark.parametrize(("value", "text"), [(2.08516, "2.0852"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_loss(value: float, text: str) -> None:
    assert formatting.loss(value) == text


@pytest.mark.parametrize(
    ("stretches", "text"),
    [([], ""), ([(21, 29)], "steps 21-29"), ([(51, 64), (51, 67), (51, 76)], "steps 51-76"),
     ([(9, 9), (3, 4), (1, 2)], "steps 1-4, step 9"), ([(1, 2), (4, 5), (7, 8), (10, 10)], "7 steps in 4 ranges")],
)  # fmt: skip
def test_stretches_are_joined_and_counted_where_there_are_many(stretches: list[tuple[int, int]], text: str) -> None:
    assert formatting.stretches_words(stretches) == text
