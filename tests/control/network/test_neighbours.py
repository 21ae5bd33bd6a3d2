"""Machines that hear each other, played by ports of this one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from dougong.control.network.neighbours import Neighbours
from dougong.control.path_messages import Hearing, PathEnd
from tests.launcher.toyrun import wait_for

TOKEN = "a token"


def end(name: str) -> PathEnd:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return PathEnd(name, name, "127.0.0.1", free.getsockname()[1], None, None, (1, 2))


@pytest.fixture
def three() -> Iterator[dict[str, Neighbours]]:
    ends = [end(name) for name in ("a", "b", "c")]
    made = {one.name: Neighbours(one.name, (one.host, one.port), TOKEN) for one in ends}
    for name, neighbours in made.items():
        neighbours.know(one for one in ends if one.name != name)
    yield made
    for neighbours in made.values():
        neighbours.close()


def test_who_was_heard_and_falls_silent_is_missed_by_all(three: dict[str, Neighbours]) -> None:
    three["a"].know([end("d")])  # never heard: nobody misses it
    wait_for(lambda: three["a"].hearing == Hearing(("b", "c")), "a hears all", 5)
    wait_for(lambda: three["b"].hearing == Hearing(("a", "c")), "b hears all", 5)
    three["c"].close()
    wait_for(lambda: set(three["a"].hearing.lost) == {"c"}, "a misses c", 5)
    # And b says so too: what a hears of it is what b has said.
    wait_for(lambda: three["a"].hearing.told == {"b": ("c",)}, "b misses c", 5)
    assert three["a"].hearing.lost["c"] >= 0.7


def test_a_strangers_words_are_not_heard() -> None:
    ours, theirs = end("a"), end("b")
    a = Neighbours("a", (ours.host, ours.port), TOKEN)
    b = Neighbours("b", (theirs.host, theirs.port), "another token")
    a.know([theirs])
    b.know([ours])
    time.sleep(0.5)
    b.close()
    time.sleep(1.2)
    assert a.hearing == Hearing()
    a.close()


def test_who_had_the_name_before_and_comes_back_is_not_taken_for_the_one_that_has_it_now() -> None:
    """An agent whose cable was out speaks again, when another one has its name: that one is heard, and missed."""
    ours, before, now = end("a"), end("b"), end("b")
    a = Neighbours("a", (ours.host, ours.port), TOKEN)
    old = Neighbours("b", (before.host, before.port), TOKEN)
    old.know([ours])
    a.know([now])
    time.sleep(0.5)
    assert a.hearing == Hearing(), "the former one was heard"
    new = Neighbours("b", (now.host, now.port), TOKEN)
    new.know([ours])
    wait_for(lambda: a.hearing == Hearing(("b",)), "a hears the new one", 5)
    new.close()
    wait_for(lambda: set(a.hearing.lost) == {"b"}, "a misses it, though the former one speaks", 5)
    for one in (a, old):
        one.close()


def test_a_port_that_cannot_be_had_makes_a_machine_deaf_and_nothing_else() -> None:
    taken = end("a")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((taken.host, taken.port))
        deaf = Neighbours("a", (taken.host, taken.port), TOKEN)
        deaf.know([end("b")])
        assert deaf.hearing == Hearing()
        deaf.close()
