"""Who is the odd one: by numbers, by kinds, and when nobody can say it."""

from __future__ import annotations

import pytest
from dougong.doctor.majority import judge_kinds, judge_numbers


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([100, 98, 60], [2]),
        ([100, 98, 99], []),
        ([100, 100, 80], []),  # a fifth less is not told
        ([100, 100, 74], [2]),
        ([100, 85, 70], []),  # nodes that scatter by themselves
        ([100, 85, 30], [2]),  # but less than half is told all the same
        ([100, 101, 99, 100, 50, 100, 40], [4, 6]),
        ([100, 100, 50, 50], []),  # of two halves nobody can say which is at fault
        ([100, 100, 100, 0], [3]),
        ([100], []),
        ([], []),
    ],
)
def test_a_figure_far_below_the_median_names_its_node(values: list[float], named: list[int]) -> None:
    found = judge_numbers(dict(enumerate(values)), 0.75)
    assert list(found.named) == named and not found.disagree


def test_two_nodes_that_differ_disagree_and_nobody_is_named() -> None:
    found = judge_numbers({"a": 100.0, "b": 50.0}, 0.75)
    assert found.named == () and found.disagree == ("a", "b")
    assert not judge_numbers({"a": 100.0, "b": 80.0}, 0.75).disagree


@pytest.mark.parametrize(
    ("kinds", "named", "disagree"),
    [
        ("aaa", "", ""),
        ("aab", "2", ""),
        ("aabb", "", "0123"),
        ("ab", "", "01"),
        ("abc", "", "012"),
        ("aaabc", "34", ""),
        ("a", "", ""),
        ("", "", ""),
    ],
)
def test_who_is_not_of_the_group_of_more_than_half_is_named(kinds: str, named: str, disagree: str) -> None:
    found = judge_kinds({str(number): kind for number, kind in enumerate(kinds)})
    assert ("".join(found.named), "".join(found.disagree)) == (named, disagree)
