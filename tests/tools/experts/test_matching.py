"""Whose expert is whose."""

from __future__ import annotations

from dougong.tools.experts.matching import are, match_words, named

A = {number: (("down", f"d{number}"), ("up", f"u{number}")) for number in range(4)}


def test_experts_that_are_where_they_should_be_are_not_spoken_of() -> None:
    assert not list(match_words(A, dict(A)))
    alike = {0: A[0], 1: A[0]}
    assert not list(match_words(alike, dict(alike))), "each is where it was, though it is elsewhere, too"


def test_who_has_changed_places_is_told_by_numbers() -> None:
    other = {0: A[1], 1: A[0], 2: A[2], 3: A[3]}
    assert list(match_words(A, other)) == ["experts are in another order: A's 0 is B's 1, 1 is B's 0"]
    many = {number: (("up", str(number)),) for number in range(12)}
    turned = {number: many[11 - number] for number in range(12)}
    assert next(match_words(many, turned)).endswith("7 is B's 4 and 4 more")


def test_who_is_lost_and_who_has_come_is_told() -> None:
    other = {0: A[0], 1: A[1], 2: (("down", "d2"), ("up", "?")), 5: (("down", "x"), ("up", "y"))}
    assert list(match_words(A, other)) == [
        "experts 2-3 of A are none of B's (of expert 2 differ: up)",
        "expert 5 of B is none of A's",
    ]


def test_one_is_one() -> None:
    assert (named([3]), are([3]), named([0, 1, 4]), are([0, 1])) == ("expert 3", "is", "experts 0-1, 4", "are")
