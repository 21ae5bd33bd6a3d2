"""Methods of a package's accelerator, held against the calls that are made of them."""

import inspect
from typing import Any

import pytest
import torch
from dougong.accelerators.base import Accelerator
from dougong.accelerators.cpu import Cpu
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.methods import RETURNS, held, wrong_methods
from dougong.accelerators.registry import BUILT_IN
from dougong.errors import DeviceError
from dougong.ops.experts.reference import ByBlock, SwiGLUExpert


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


def test_every_method_of_which_something_is_asked_has_a_form() -> None:
    asked = {name for name, _ in inspect.getmembers(GenericAccelerator, inspect.isfunction) if not name.startswith("_")}
    assert set(RETURNS) == asked - {"abort", "make_exact"}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_what_dougongs_own_return_is_as_it_must_be(kind: type[Accelerator]) -> None:
    """Those that open no device; `base` is no class of theirs, so that all are held."""
    found = held(kind, object, kind.name)()
    assert set(found.worker_environment(1)) and found.describe()["name"]
    found.device_count(), found.memory_bytes(), found.device_keys(), found.missing(), found.interface_variables("lo")
    found.peak_rate("H100", "float32")


class Sound(GenericAccelerator):
    """As a package would have it."""

    name = device_type = "cpu"
    backend, resource, visible_devices_variable = "gloo", "TOY", None


WRONG: list[tuple[str, tuple[Any, ...], list[Any]]] = [
    ("device_count", (), ["3", -1, 2.0, True]),
    ("worker_environment", (1,), [None, {"A": 1}, [("A", "1")], {1: "A"}, {"A=B": "1"}, {"": "1"}, {"A": "x\0y"}]),
    ("interface_variables", ("lo",), [None, "lo", {"A": "lo\0"}]),
    ("open", (0,), [None, "cpu", torch.device("meta")]),
    ("describe", (), [None, {"name": None}, "toy"]),
    ("memory_bytes", (), ["80 GB", 0, 8e10]),
    ("peak_rate", ("toy", "float32"), [{"float32": 1e12}, "fast", 0, float("inf")]),
    ("missing", (), [None, True]),
    ("telemetry", (), [True, {}]),
    ("device_keys", (), [None, "GPU-1", (1,), ("GPU-1", "GPU-1")]),
    ("names", (), [3, None, "toy0", [0, 1], ["toy0", "toy0"]]),
    ("driver", (), [None, 5.1]),
    ("expert_operators", (), [None, "experts", 3]),
]
CASES = [(name, given, value) for name, given, values in WRONG for value in values]


@pytest.mark.parametrize(("name", "given", "value"), CASES)
def test_a_wrong_answer_is_told_with_the_method_and_the_rule(name: str, given: tuple[Any, ...], value: Any) -> None:
    kind = type("Toy", (Sound,), {name: lambda self, *arguments: value})
    with pytest.raises(DeviceError) as caught:
        getattr(held(kind, GenericAccelerator, "accelerator toy of toys 1.0")(), name)(*given)
    told = str(caught.value)
    assert told.startswith(f"accelerator toy of toys 1.0: {name}() has returned ") and "\n" not in told
    assert f"({type(value).__name__}), and must return " in told and "; correct it in the package" in told


@pytest.mark.parametrize("way", ["staticmethod", "classmethod", "method"])
def test_a_right_answer_is_handed_on(way: str) -> None:
    ways = {"staticmethod": staticmethod(lambda: ["toy0"]), "classmethod": classmethod(lambda cls: ["toy0"])}
    made = held(type("Toy", (Sound,), {"names": ways.get(way, lambda self: ["toy0"])}), GenericAccelerator, "toy")()
    assert made.names() == ["toy0"] and made.device_count() == 1
    assert made.describe() == {"name": "toy0", "driver": ""}


def test_a_device_of_a_kind_without_a_type_is_any() -> None:
    kind = type("Toy", (Cpu,), {"open": lambda self, index, deterministic=True: torch.device("meta")})
    assert held(kind, Accelerator, "toy")().open(0) == torch.device("meta")


def test_a_mistake_within_a_method_is_told_with_its_remedy() -> None:
    def opens(self: Any, index: int, deterministic: bool = True) -> torch.device:
        return torch.device(*self.names)

    made = held(type("Toy", (Sound,), {"open": opens}), GenericAccelerator, "accelerator toy of toys 1.0")()
    with pytest.raises(
        DeviceError,
        match=r"^accelerator toy of toys 1.0: open\(\) has raised TypeError: .*; correct it in the package, or",
    ) as caught:
        made.open(0)
    assert isinstance(caught.value.__cause__, TypeError)


def test_what_it_raises_stays_on_one_line() -> None:
    def opens(self: Any, index: int, deterministic: bool = True) -> torch.device:
        raise RuntimeError("no card\n\tin slot 3\n")

    made = held(type("Toy", (Sound,), {"open": opens}), GenericAccelerator, "toy")()
    with pytest.raises(DeviceError, match=r"^toy: open\(\) has raised RuntimeError: no card in slot 3; correct it"):
        made.open(0)


class Ours(DeviceError):
    """Of a package's own."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SystemExit(3), DeviceError),
        (Ours("no card"), Ours),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError),
        (torch.AcceleratorError("107002"), torch.AcceleratorError),
        (MemoryError(), MemoryError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_who_has_raised_what(error: BaseException, kind: type[BaseException]) -> None:
    def describe(self: Any) -> dict[str, str]:
        raise error

    made = held(type("Toy", (Sound,), {"describe": describe}), GenericAccelerator, "toy")()
    with pytest.raises(kind) as caught:
        made.describe()
    assert type(caught.value) is kind


def test_what_is_yielded_must_be_an_operator() -> None:
    def yields(self: Any) -> Any:
        yield ByBlock(SwiGLUExpert())
        yield ByBlock

    made = held(type("Toy", (Sound,), {"expert_operators": yields}), GenericAccelerator, "toy")()
    operators = made.expert_operators()
    assert isinstance(next(operators), ByBlock) and made.has_expert_operators
    assert not held(Sound, GenericAccelerator, "toy")().has_expert_operators
    made = held(type("Toy", (Sound,), {"expert_operators": lambda self: iter([3])}), GenericAccelerator, "toy")()
    with pytest.raises(
        DeviceError, match=r"expert_operators\(\) has yielded 3 \(int\), and must return operators with a"
    ):
        next(made.expert_operators())
