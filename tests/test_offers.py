"""What packages offer by entry points. The rest is in the tests of those who take it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path, PurePath

import pytest
from dougong.errors import DeviceError
from dougong.offers import offered_class


def offer(value: str) -> EntryPoint:
    return EntryPoint("toy", value, "dougong.toys")


def test_a_subclass_is_handed_over() -> None:
    assert offered_class(offer("pathlib:Path"), PurePath, "toy", "PAGE.md") is Path


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:Toy", "does not load (ModuleNotFoundError: No module named 'no_such_module'); install its "
         "package again, with the libraries that it needs, or do without"),
        ("pathlib:PurePath.name", " is <property object at "),
        ("json:loads", "not a subclass of pathlib.PurePath; see PAGE.md, or do without"),
        ("json:JSONDecoder", "not a subclass of pathlib.PurePath; see PAGE.md, or do without"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_place_and_what_to_do(value: str, said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        offered_class(offer(value), PurePath, "toy", "PAGE.md", ", or do without")
    assert str(caught.value).startswith(f"toy toy: entry point {value} ") and said in str(caught.value)
