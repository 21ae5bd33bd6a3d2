"""Methods of a package's accelerator, held against the calls that are made of them."""

from typing import Any

import pytest
from dougong.accelerators.base import Accelerator
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.methods import wrong_methods
from dougong.accelerators.registry import BUILT_IN


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_dougongs_own_are_sound(kind: type[Accelerator]) -> None:
    assert list(wrong_methods(kind, Accelerator)) == []


def test_more_arguments_that_need_not_be_given_are_good() -> None:
    class More(Cpu):
        def __init__(self, path: str = "/dev") -> None:
            self.path = path

        def worker_environment(self, threads: int, deterministic: bool = True, quiet: bool = False) -> dict[str, str]:
            return {}

        def describe(self, *words: Any, **more: Any) -> dict[str, str]:
            return {}

        @staticmethod
        def missing() -> str:
            return ""

    assert list(wrong_methods(More, Accelerator)) == []


def test_each_that_cannot_be_called_is_named() -> None:
    class Wrong(Cpu):
        def __init__(self, path: str) -> None:
            self.path = path

        def open(self, number: int, deterministic: bool = True) -> Any:
            return None

        def missing(self, where: str) -> str:  # type: ignore[override]
            return where

        describe = {"name": "toy"}  # type: ignore[assignment]

    found = list(wrong_methods(Wrong, Accelerator))
    assert [words.split("(")[0].split(" is ")[0] for words in found] == ["Wrong", "describe", "missing", "open"]
