"""Printing to whoever may stand still."""

from __future__ import annotations

import os
import threading

import pytest
from dougong.storage.screen import Screen
from rich.console import Console
from tests.launcher.toyrun import wait_for


def test_a_reader_that_sleeps_holds_up_nobody() -> None:
    """A pipe takes 64 KiB, then `write` waits."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream, os.fdopen(reading, encoding="utf-8") as reader:
        screen = Screen(stream)
        console = Console(file=screen, width=200)
        for number in range(20_000):
            console.print(f"step {number}")  # returns
        lines: list[str] = []
        awake = threading.Thread(target=lambda: lines.extend(reader.readline() for _ in range(20_000)), daemon=True)
        awake.start()
        awake.join(30)
        assert lines == [f"step {number}\n" for number in range(20_000)]
        screen.close()


def test_what_was_printed_can_be_waited_for() -> None:
    """Also where nobody reads: no longer than that."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        screen = Screen(stream)
        screen.write("the last words\n")
        screen.settle(30.0)
        os.set_blocking(reading, False)
        assert reader.readline() == "the last words\n"
        screen.write("x" * (1 << 20))
        screen.settle(0.05)
        os.set_blocking(reading, True)
        assert reader.read(1 << 20) == "x" * (1 << 20)
        screen.close()


def test_a_reader_that_is_gone_is_an_error_of_the_next_line() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    screen = Screen(os.fdopen(writing, "w"))
    screen.write("lost\n")

    def is_gone() -> bool:
        try:
            screen.write("")
        except BrokenPipeError:
            return True
        return False

    wait_for(is_gone, "it is noticed", 10)
    screen.close()


def test_it_is_a_terminal_where_its_stream_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    with open(os.devnull, "w", encoding="ascii") as stream:
        screen = Screen(stream)
        assert (screen.isatty(), screen.encoding, screen.fileno()) == (False, "ascii", stream.fileno())
        assert screen.write("x\n") == 2
        screen.close()
