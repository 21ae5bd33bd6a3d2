"""What an accelerator's facts must be, and that no fact is without a form."""

from __future__ import annotations

from typing import Any

import pytest
from dougong.accelerators.base import Accelerator
from dougong.accelerators.facts import Default, PeakRates, Refused
from dougong.accelerators.forms import FACTS, GENERIC_FACTS, is_number, unknown_names, wrong_facts
from dougong.accelerators.generic import GenericAccelerator
from dougong.accelerators.methods import broken_promises
from dougong.accelerators.registry import BUILT_IN


def test_every_fact_has_a_form() -> None:
    assert {fact.name for fact in FACTS} == set(Accelerator.__annotations__)
    assert {fact.name for fact in GENERIC_FACTS} == set(GenericAccelerator.__annotations__)


@pytest.mark.parametrize("kind", [*BUILT_IN, GenericAccelerator])
def test_dougong_s_own_keep_them(kind: type[Accelerator]) -> None:
    assert list(wrong_facts(kind)) == [] and list(broken_promises(kind, Accelerator)) == []


def test_every_name_of_dougong_s_own_is_known() -> None:
    """To a package that derives from one of them, too."""
    for kind in BUILT_IN:
        assert (
            list(unknown_names(type("Theirs", (kind,), {"__module__": "toys", "open": kind.open}), Accelerator)) == []
        )


def test_a_number_is_finite_and_above_0() -> None:
    assert is_number(1) and is_number(0.5)
    assert not any(map(is_number, (0, -1, True, float("inf"), float("nan"), "1", None)))


RATES = PeakRates("Toy", {"float32": 1e12}, "its page")


@pytest.mark.parametrize(
    ("fact", "right", "wrong"),
    [
        ("name", ["toy"], ["", 3, None]),
        ("resource", ["TOY", None], ["", ("TOY",)]),
        ("interface_variable", ["TOY_IFNAME", None], ["", "A=B", "A\0"]),
        (
            "interface_form",
            ["{}", "={}", "{{{}}}"],
            ["", "{}{}", None, "{0.x}{}", "{}{name}", "{}{0}", "{}{", "{{}}", "{}\0"],
        ),
        ("shares_machine", [True], [1, "no"]),
        ("arithmetic_variables", [(), ("TOY_",), ["TOY_"]], ["TOY_", ("",), {"TOY_"}, (1,), ("A=",)]),
        ("agreed_variables", [("TOY_ALGO",)], ["TOY_ALGO", {"TOY_ALGO": "ring"}]),
        (
            "defaults",
            [(Default("A", "1", ("B",)),)],
            [
                Default("A", "1"),
                (Default("A", 1),),
                (Default("A", "1", "B"),),
                (Default("A=B", "1"),),
                (Default("A", "1\0"),),
                (Default("A", "1", ("B=",)),),
            ],
        ),
        (
            "refused",
            [(Refused("A", "1", "adds in any order"),)],
            [{"A": "1"}, ("A",), (Refused("A", True, "so"),), (Refused("A=B", "1", "so"),)],
        ),
        ("peak_rates", [(RATES,)], [RATES, (PeakRates("Toy", {"float32": "fast"}, "its page"),), {"Toy": 1e12}]),
        ("standing", ["run here"], ["sold", None, ["run here"]]),
        ("build_tag", ["cu.*"], ["(", None]),
        (
            "environment",
            [{"A": "1"}, {"A": "B=C"}, {"A": ""}],
            [{"A": 1}, {1: "A"}, ("A", "1"), {"": "1"}, {"A=B": "1"}, {"A": "x\0y"}, {"A\0": "1"}],
        ),
        (
            "peak_rates",
            [(PeakRates("Toy", {"bfloat16": 1}, "its page"),)],
            [(PeakRates("Toy", {"bf16": 1e12}, "its page"),)],
        ),
        ("fused_operators", [(), ("experts.triton_swiglu",)], ["experts.triton_swiglu", ("experts.nothing",), ("..",)]),
        (
            "exact_switches",
            [{"backends.toy": False}],
            [{"backends.toy": "off"}, ("backends.toy",), {"toy": True}, {"torch.backends.toy": True}, {"a..b": True}],
        ),
    ],
)
def test_each_form(fact: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert list(wrong_facts(type("Toy", (), {fact: value}))) == []
    for value in wrong:
        (told,) = wrong_facts(type("Toy", (), {fact: value}))
        assert told.startswith(f"{fact} is ") and f"({type(value).__name__}), and must be " in told
