"""A flight pauses, goes on and raises what the model raises; weights without memory are named for what they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.segments.flight import (
    Flight,
    Forward,
    note_on_flight,
    pause_at_experts,
    uses_tensors_without_memory,
)
from dougong.parallel.segments.tape import leaf_node
from tests.parallel.kept import Kept
from torch import Tensor

WITHOUT_MEMORY = torch.nn.Parameter(torch.empty(3, 3, device="meta"))


def call(hidden: Tensor) -> Tensor:
    index = torch.zeros(len(hidden), 1, dtype=torch.int64)
    return pause_at_experts(0, hidden, index, torch.ones(len(hidden), 1))


def silent(hidden: Tensor) -> Tensor:
    """No operator raises, but the loss has no memory either."""
    return WITHOUT_MEMORY


def product(hidden: Tensor) -> Tensor:
    return hidden * WITHOUT_MEMORY.sum()


def listed(hidden: Tensor) -> Tensor:
    return torch.cat([hidden, WITHOUT_MEMORY])


def read(hidden: Tensor) -> Tensor:
    return hidden * WITHOUT_MEMORY.sum().item()


@pytest.mark.parametrize("use", [silent, product, listed, read])
@pytest.mark.parametrize("paused", [False, True], ids=["before the call", "behind it"])
def test_a_model_that_uses_its_experts_weights_elsewhere_is_refused(use: object, paused: bool) -> None:
    def run() -> Tensor:
        hidden = torch.ones(2, 3)
        if paused:
            hidden = call(hidden)
        return use(hidden).sum()  # type: ignore[operator]

    flight = Flight(Forward(run), True)
    if paused:
        flight.start()
    with pytest.raises(ModelError, match="uses its experts' weights outside of the experts call.*not supported"):
        flight.resume(torch.ones(2, 3)) if paused else flight.start()


def test_another_error_comes_out_as_it_is_whatever_its_text() -> None:
    """Also where the word stands in its text, and where such weights are near."""

    def run() -> Tensor:
        _ = WITHOUT_MEMORY.shape, WITHOUT_MEMORY.device, WITHOUT_MEMORY.sum()
        raise RuntimeError("the metadata of a meta tensor")

    with pytest.raises(RuntimeError, match="^the metadata of a meta tensor$"):
        Flight(Forward(run), True).start()


def test_an_error_of_an_operator_on_other_tensors_comes_out_as_it_is() -> None:
    def run() -> Tensor:
        _ = WITHOUT_MEMORY.sum()
        return torch.ones(2, 3) @ torch.ones(2, 3)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Flight(Forward(run), True).start()
    assert not uses_tensors_without_memory(Forward(run), [], True)


def test_it_pauses_with_the_call_and_goes_on_with_the_output() -> None:
    begun: list[int] = []

    def run() -> Tensor:
        note_on_flight("before")
        hidden = call(torch.full((2, 3), 2.0))
        note_on_flight("behind")
        return hidden.sum()

    flight = Flight(Forward(run, begun.append), True)
    flight.start()
    assert flight.calls[-1].hidden.tolist() == [[2.0] * 3] * 2 and flight.loss is None
    flight.resume(torch.ones(2, 3))
    assert flight.loss is not None and float(flight.loss.detach()) == 6
    assert begun == [0, 1] and flight.notes == ["before", "behind"]


def gradients_after(added: list[Callable[[Tensor], Tensor]]) -> tuple[float, Tensor]:
    """A flight without experts calls whose loss is 2 * sum(w): its value, and the gradient of w."""
    weight = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    flight = Flight(Forward(lambda: (weight * 2).sum()), True)
    flight.start()
    for loss in added:
        flight.add_loss(loss(weight))
    sink = Kept()
    value = flight.begin_backward(0.5, sink)
    flight.end_backward(sink)
    assert sink.expected == {leaf_node(weight)} and sink.ended
    ((_, gradient),) = sink.taken
    return float(value), gradient


def test_losses_of_two_hooks_are_added_and_neither_is_replaced() -> None:
    def squares(weight: Tensor) -> Tensor:
        return weight.square().sum()

    def cubes(weight: Tensor) -> Tensor:
        return weight.pow(3).sum()

    weight = torch.tensor([0.1, 0.2, 0.3])
    for added, expected in (
        ([], torch.full((3,), 1.0)),
        ([squares], 1 + weight),
        ([cubes], 1 + 1.5 * weight.square()),
        ([squares, cubes], 1 + weight + 1.5 * weight.square()),
    ):
        value, gradient = gradients_after(added)
        torch.testing.assert_close(gradient, expected)
        assert value == pytest.approx(1.2), "the flight's own loss"


def test_a_note_outside_of_a_flight_is_lost() -> None:
    note_on_flight("nobody listens")
