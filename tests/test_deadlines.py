"""Every time limit has a unit, and what a site may set is a limit that exists."""

from __future__ import annotations

from dataclasses import fields

import pytest
from dougong.deadlines import DEADLINES, SETTABLE, Deadlines


def test_every_limit_is_a_positive_number_of_seconds() -> None:
    for field in fields(Deadlines):
        assert field.name.endswith("_s")
        assert getattr(DEADLINES, field.name) > 0


def test_what_can_be_set_exists() -> None:
    assert set(SETTABLE) <= {field.name for field in fields(Deadlines)}


@pytest.mark.parametrize(
    ("name", "words"),
    [("rendezvous_s", "120 s (fault.deadlines.rendezvous_s)"), ("send_s", "20 s"), ("status_fresh_s", "2.5 s")],
)
def test_a_limit_in_an_error_names_the_key_that_sets_it(name: str, words: str) -> None:
    assert DEADLINES.words(name) == words
