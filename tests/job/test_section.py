"""Plain values, and sections: strict, marked, and chosen by name where there are several."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from dougong.job.parts.data import Validation
from dougong.job.schema import Job
from dougong.job.section import (
    UNKNOWN_NAME,
    AcceleratorName,
    BridgeName,
    ChosenByName,
    Count,
    Name,
    Positive,
    Seconds,
    Section,
    Silence,
    WorkerName,
    logical,
    mark_of,
    names_that_know,
    physical,
    section_for,
    section_in,
    sections_of,
)
from pydantic import TypeAdapter, ValidationError


class Round(Section):
    """A wheel."""

    name: Literal["round"] = logical("round", "which shape")
    radius: float = logical(1.0, "of the wheel", ge=0)


class Square(Section):
    """No wheel."""

    name: Literal["square"] = logical("square", "which shape")
    side: float = physical(1.0, "of the square", ge=0)


SHAPES = ChosenByName({"round": Round, "square": Square})


class Cart(Section):
    """What has a shape."""

    shape: Annotated[Section, SHAPES] = logical(Round(), "the shape")
    load: int = logical(0, "what it carries", resume="it is put on anew")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, Round()),
        ({"radius": 2.0}, Round(radius=2.0)),
        ({"name": "square", "side": 3.0}, Square(side=3.0)),
        (Square(), Square()),
    ],
)
def test_the_name_chooses_and_the_first_is_the_default(given: Any, chosen: Section) -> None:
    cart = Cart.model_validate({"shape": given})
    assert cart.shape == chosen
    assert Cart.model_validate_json(cart.model_dump_json()) == cart


@pytest.mark.parametrize(
    ("given", "path", "kind"),
    [
        ({"name": "oval"}, ("shape", "name"), "literal_error"),
        ({"name": 5}, ("shape", "name"), "literal_error"),
        ({"name": "square", "side": -1.0}, ("shape", "side"), "greater_than_equal"),
        ({"name": "square", "radius": 1.0}, ("shape", "radius"), "extra_forbidden"),
        (None, ("shape",), "model_type"),
        ([], ("shape",), "model_type"),
    ],
)
def test_what_is_wrong_is_found_at_its_own_key(given: Any, path: tuple[str, ...], kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Cart.model_validate({"shape": given})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (path, kind)


def test_an_unknown_name_is_held_against_all_names() -> None:
    with pytest.raises(ValidationError) as caught:
        Cart.model_validate({"shape": {"name": "oval"}})
    assert caught.value.errors()[0]["ctx"] == {"expected": "'round' or 'square'"}


def test_which_names_know_a_key() -> None:
    shape = Cart.model_fields["shape"]
    assert names_that_know(shape, "radius") == ["round"] and names_that_know(shape, "side") == ["square"]
    assert names_that_know(shape, "name") == ["round", "square"] and names_that_know(shape, "load") == []
    assert names_that_know(Cart.model_fields["load"], "radius") == []


def test_an_editor_is_offered_all_of_them() -> None:
    schema = Cart.model_json_schema()
    offered = schema["properties"]["shape"]["anyOf"]
    assert [one["$ref"].rpartition("/")[2] for one in offered] == ["Round", "Square"]


def test_marks() -> None:
    fields = Cart.model_fields | Square.model_fields
    assert [mark_of(fields[name], "x-kind") for name in ("shape", "load", "side")] == ["logical", "logical", "physical"]
    assert [mark_of(fields[name], "x-resume") for name in ("shape", "load", "side")] == [
        None,
        "it is put on anew",
        None,
    ]


def test_the_sections_of_a_field() -> None:
    assert sections_of(Cart.model_fields["shape"]) == (Round, Square)
    assert sections_of(Cart.model_fields["load"]) == ()
    assert sections_of(Job.model_fields["islands"])[0].__name__ == "Island"
    assert section_for(Cart.model_fields["shape"], {"name": "square"}) is Square
    assert section_for(Cart.model_fields["shape"], {"name": "oval"}) is Round
    assert section_for(Job.model_fields["islands"], [{}]) is None
    assert section_in(Validation | None) is Validation


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Name, ["a", "east-1", "x" * 63], ["", "-a", "a/b", "a\n", "x" * 64, 5]),
        (WorkerName, ["east/0", "east/12"], ["east", "east/01", "east/-1"]),
        (Positive, [1, 2**31 - 1, 6.0, 1e3], [0, 2**31, True, 1.5, 0.0, float("inf"), float("nan"), "1"]),
        (Count, [0], [-1]),
        (Seconds, [0.5, 600, 604800.0], [0, -1.0, 604801.0, "5"]),
        (Silence, [4.0], [3.9]),
        (AcceleratorName, ["cpu", "cuda", "npu"], ["gpu", "", 5]),
    ],
)
def test_what_is_taken_and_what_is_not(kind: Any, good: list[Any], bad: list[Any]) -> None:
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) == value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_a_whole_number_with_a_decimal_point_is_whole() -> None:
    found = TypeAdapter(Positive).validate_python(1e3)
    assert (found, type(found)) == (1000, int)


def test_an_unknown_accelerator_is_held_against_the_registered_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(AcceleratorName).validate_python("tpu")
    (error,) = caught.value.errors()
    assert error["type"] == UNKNOWN_NAME
    names = "'cpu', 'cuda', 'rocm', 'npu', 'mlu', 'musa', 'gcu' or 'xpu'"
    assert error["ctx"] == {"what": "accelerator", "expected": names}


def test_an_unknown_bridge_is_held_against_the_offered_ones() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(BridgeName).validate_python("flagcx")
    (error,) = caught.value.errors()
    assert (error["type"], error["ctx"]["expected"]) == (UNKNOWN_NAME, "'auto' or 'host'")
