"""Every time limit of the program."""

from __future__ import annotations

import dataclasses

import pytest
from dougong.deadlines import DEADLINES, LEAST_SILENCE_S, MOST_S, SETTABLE, Deadlines


def test_every_limit_is_positive_seconds_by_its_name() -> None:
    for field in dataclasses.fields(Deadlines):
        assert field.name.endswith("_s")
        assert 0 < getattr(DEADLINES, field.name) < MOST_S


def test_what_may_be_set_is_a_limit_and_says_what_it_means() -> None:
    names = {field.name for field in dataclasses.fields(Deadlines)}
    assert set(SETTABLE) <= names
    assert all(SETTABLE.values())


def test_limits_that_depend_on_each_other_agree() -> None:
    assert DEADLINES.agent_silence_s >= LEAST_SILENCE_S > DEADLINES.ping_every_s
    assert DEADLINES.controller_silence_s > DEADLINES.agent_silence_s, "the controller finds the loss first"
    assert DEADLINES.status_fresh_s > DEADLINES.status_every_s


@pytest.mark.parametrize(("num_workers", "looks"), [(1, 1), (2_000, 1), (4_000, 2), (10_000, 5), (1_000_000, 10)])
def test_agents_of_a_large_run_speak_less_often_and_look_as_often(num_workers: int, looks: int) -> None:
    of_many = DEADLINES.of_workers(num_workers)
    assert of_many.looks_of_a_heartbeat == looks
    assert of_many.look_every_s == DEADLINES.look_every_s
    assert 3 * of_many.heartbeat_every_s < LEAST_SILENCE_S


@pytest.mark.parametrize(
    ("name", "words"),
    [("rendezvous_s", "120 s (fault.deadlines.rendezvous_s)"), ("send_s", "20 s"), ("status_fresh_s", "2.5 s")],
)
def test_a_limit_in_an_error_names_the_key_that_sets_it(name: str, words: str) -> None:
    assert DEADLINES.words(name) == words
