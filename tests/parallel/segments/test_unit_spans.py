"""Each unit is there in its forward, and while the nodes are walked that its forward has made."""

from __future__ import annotations

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.segments.flight import Flight, Forward
from dougong.parallel.segments.tape import leaf_node
from dougong.parallel.segments.unit_spans import UnitSpans, tell_units
from tests.parallel.segments.layered import TOKENS, WIDTH, Layered
from torch import Tensor

Told = list[tuple[str, int, bool]]


class Noting:
    """Notes who is entered and left, and is the sink of all gradients, too."""

    def __init__(self) -> None:
        self.told: Told = []
        self.gradients: list[tuple[object, Tensor]] = []

    def enter(self, unit: int, is_backward: bool) -> None:
        self.told.append(("enter", unit, is_backward))

    def leave(self, unit: int, is_backward: bool) -> None:
        self.told.append(("leave", unit, is_backward))

    def begin(self, leaves: object) -> None: ...

    def take(self, leaf: object, gradient: Tensor) -> None:
        unit = next((unit for what, unit, back in reversed(self.told) if back and what == "enter"), None)
        self.gradients.append((leaf, gradient))
        self.told.append(("gradient", -1 if unit is None else unit, True))

    def end(self) -> None: ...


def flown(model: Layered, notes: Noting, units: Noting | None, with_gradients: bool = True) -> Tensor:
    """One flight there and back; its experts give what they are given."""
    torch.manual_seed(4)
    hidden = torch.randn(TOKENS, WIDTH)
    flight = Flight(Forward(lambda: model(hidden)), with_gradients, units=units)
    flight.start()
    while flight.loss is None:
        flight.resume(flight.calls[-1].hidden.detach() * 2)
    loss = flight.loss.detach()
    if not with_gradients:
        return loss
    flight.begin_backward(1.0, notes)
    while flight.calls:
        call, gradient = flight.backward_to_call(notes)
        flight.add_input_gradients(call, gradient * 2, torch.zeros_like(call.weights))
    flight.end_backward(notes)
    return loss


def told_model() -> Layered:
    model = Layered()
    tell_units(list(model.layers))
    return model


def test_units_are_entered_and_left_in_order_there_and_back() -> None:
    notes = Noting()
    flown(told_model(), notes, notes)
    crossings = [one for one in notes.told if one[0] != "gradient"]
    forth = [(what, unit, False) for unit in range(3) for what in ("enter", "leave")]
    back = [(what, unit, True) for unit in reversed(range(3)) for what in ("enter", "leave")]
    assert crossings == [*forth, *back]


def test_no_gradient_changes_and_each_comes_while_its_unit_is_there() -> None:
    plain, there = Noting(), Noting()
    model = told_model()
    assert torch.equal(flown(model, plain, None), flown(model, there, there))
    assert len(plain.gradients) == len(there.gradients) > 10
    for one, other in zip(plain.gradients, there.gradients, strict=True):
        assert one[0] is other[0] and torch.equal(one[1], other[1])
    unit_of = {leaf_node(p): number for number, layer in enumerate(model.layers) for p in layer.parameters()}
    entered: set[int] = set()
    gradients = iter(there.gradients)
    for what, unit, is_backward in there.told:
        if what == "gradient":
            leaf = next(gradients)[0]
            assert leaf not in unit_of or unit_of[leaf] in entered
        elif is_backward:
            entered.add(unit)


def test_an_evaluation_only_goes_forth() -> None:
    notes = Noting()
    flown(told_model(), notes, notes, with_gradients=False)
    assert notes.told == [(what, unit, False) for unit in range(3) for what in ("enter", "leave")]


def test_a_unit_whose_nodes_are_not_walked_is_passed_by() -> None:
    """No gradient flows into the first layers: they are left all the same."""
    notes = Noting()
    model = told_model()
    hook = model.layers[1].register_forward_hook(lambda module, args, output: output.detach())
    flown(model, notes, notes)
    hook.remove()
    crossings = [one for one in notes.told if one[2] and one[0] != "gradient"]
    assert [unit for what, unit, _ in crossings if what == "leave"] == [2, 1, 0]
    assert next(unit for what, unit, _ in crossings if what == "enter") == 2


def test_what_runs_in_no_flight_tells_nobody() -> None:
    model = Layered()
    tell_units(list(model.layers))
    assert UnitSpans.here() is None
    model.layers[0](torch.randn(TOKENS, WIDTH), torch.ones(TOKENS, 1))


def test_a_tensor_that_is_used_by_another_way_than_its_module_is_told_with_what_to_do() -> None:
    """As one that its unit has let go: it has no elements."""
    model, notes = told_model(), Noting()
    weight = model.layers[2].norm.weight
    model.layers[0].twist = lambda layer, inner: torch.nn.functional.linear(inner, weight.data[:0])
    with pytest.raises(ModelError, match=r"a tensor of no elements; with dense: shard .* set dense: copy$"):
        flown(model, notes, notes)
    with pytest.raises(RuntimeError, match="size mismatch"):
        flown(model, notes, None)
