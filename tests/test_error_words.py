"""Every error of the family keeps its class on its way to another process."""

from __future__ import annotations

import inspect

import dougong.errors
import pytest
from dougong.error_words import ErrorWords
from dougong.errors import DougongError, NoRoomError

FAMILY = [kind for _, kind in inspect.getmembers(dougong.errors, inspect.isclass) if issubclass(kind, DougongError)]


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_of_the_family_is_the_same_again(kind: type[DougongError]) -> None:
    again = ErrorWords.of(kind("two\nlines")).error()
    assert (type(again), str(again), again.exit_status) == (kind, "two\nlines", kind.exit_status)


def test_what_an_error_holds_comes_along() -> None:
    again = ErrorWords.of(NoRoomError("full", is_held=True)).error()
    assert isinstance(again, NoRoomError) and again.is_held
