"""Workers' health and goodput in a line each, for two workers as for 256."""

from __future__ import annotations

import pytest
from dougong.records.status import Goodput, WorkerState
from dougong.ui.health import goodput_words, percent, workers_words


def workers(number: int, **others: str) -> list[WorkerState]:
    """`others`: by the worker's index, its health."""
    found = []
    for index in range(number):
        health = others.get(f"w{index}", "waits for east/1")
        found.append(WorkerState(name=f"east/{index}", pid=index, alive=health != "ended", health=health))
    return found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (workers(2), "2 running (east/0-1)"),
        (workers(256), "256 running (east/0-255)"),
        (workers(256, w3="suspect: stopped for 0.6 s"), "1 suspected (east/3), 255 running"),
        (
            workers(4, w0="not seen: its agent is not heard", w1="ended"),
            "1 not heard (east/0), 1 ended (east/1), 2 running",
        ),
        ([WorkerState(name="east/0")], "1 starting (east/0)"),
    ],
)
def test_those_who_are_not_well_come_first(found: list[WorkerState], words: str) -> None:
    assert workers_words(found) == words


def test_goodput_names_what_the_rest_went_to() -> None:
    parts = {"training": 90.0, "again": 5.0, "start": 3.0, "leaving": 1.0, "restoring": 0.9, "between": 0.1}
    words = goodput_words(Goodput(parts=parts, steps_again=9))
    assert words == (
        "90.0 % of 1:40, 9 steps computed again (lost steps 5.0 %, start-up 3.0 %, leaving broken generations 1.0 %)"
    )
    assert goodput_words(Goodput()) == ""


@pytest.mark.parametrize(("share", "words"), [(1.0, "100.0 %"), (0.99999, "99.9 %"), (0.5, "50.0 %")])
def test_a_share_is_whole_only_where_nothing_is_missing(share: float, words: str) -> None:
    assert percent(share) == words
