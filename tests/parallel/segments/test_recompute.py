"""Layers that run again in the backward: the same bits, one repetition each, and errors for those that cannot."""

from __future__ import annotations

import gc
import itertools
import random
import weakref
from collections.abc import Callable

import pytest
import torch
from dougong.errors import ModelError
from dougong.parallel.segments.chance import RandomState
from dougong.parallel.segments.flight import Flight, Forward, pause_at_experts
from dougong.parallel.segments.recompute import LayerRun
from dougong.parallel.segments.repeats import LayerRepeats
from tests.parallel.segments.layered import TOKENS, WIDTH, Layer, Layered, Pilot, differing, num_hooks_off, plain
from torch import Tensor


def test_each_layer_runs_again_once_and_every_bit_is_the_same() -> None:
    repeats = LayerRepeats()
    ours = Pilot(Layered().recompute(), repeats).fly()
    repeats.refuse_others()
    assert torch.equal(ours.loss, plain().loss) and differing(ours, plain()) == []
    assert len(ours.gradients.found) == 19 and all(g.any() for g in ours.gradients.found.values())
    assert [layer.runs for layer in ours.model.layers] == [2, 2, 2]
    assert num_hooks_off()


def test_without_its_random_state_a_layer_comes_out_otherwise_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: gradients differ, and it is not silent."""
    monkeypatch.setattr(RandomState, "put_back", lambda self: None)
    repeats = LayerRepeats()
    ours = Pilot(Layered().recompute(), repeats).fly()
    assert len(differing(ours, plain())) > 10
    with pytest.raises(
        ModelError, match=r"layers\.2 \(and 2 more layers\) is another one when it runs again.*other bits"
    ):
        repeats.refuse_others()
    repeats.refuse_others()


def test_a_repetition_draws_nothing_from_what_others_draw() -> None:
    pilot = Pilot(Layered().recompute(), LayerRepeats())
    with torch.no_grad():
        for piece in pilot.pieces()[:4]:
            piece()
        torch.manual_seed(5)
        for piece in pilot.pieces()[4:]:
            piece()
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("order", range(4))
def test_flights_that_take_turns_keep_their_hooks_apart(order: int) -> None:
    """In one thread, paused inside of layers, one of them without recomputation."""
    model, other = Layered().recompute(), Layered()
    repeats = LayerRepeats()
    pilots = [Pilot(model, repeats, 0), Pilot(other, None, 1), Pilot(model, repeats, 2)]
    queues = [pilot.pieces() for pilot in pilots]
    choose = random.Random(order)
    with torch.no_grad():
        while any(queues):
            choose.choice([queue for queue in queues if queue]).pop(0)()
            assert num_hooks_off()
    repeats.refuse_others()
    for number, pilot in enumerate(pilots):
        assert differing(pilot, plain(number)) == []


@pytest.mark.parametrize("num_pieces", [1, 2, 3, 5, 7])
def test_what_is_kept_goes_with_the_flight_also_of_one_that_is_given_up(
    num_pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No circle through the graph, which Python's collector could not see."""
    runs: list[weakref.ref[LayerRun]] = []
    begin = LayerRun.__init__

    def noting(self: LayerRun, *args: object) -> None:
        runs.append(weakref.ref(self))
        begin(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(LayerRun, "__init__", noting)
    gc.disable()
    try:
        fly_a_part(num_pieces)
        assert [run() for run in runs] == [None] * min(1 + num_pieces, 3)
    finally:
        gc.enable()
    assert num_hooks_off()


@torch.no_grad()
def fly_a_part(num_pieces: int) -> None:
    pilot = Pilot(Layered().recompute(), LayerRepeats())
    for piece in pilot.pieces()[:num_pieces]:
        piece()
    assert num_hooks_off()


def test_a_value_that_is_no_number_is_equal_to_itself() -> None:
    """A step that is not finite is no reason to call a layer another one."""
    repeats = LayerRepeats()
    ours = Pilot(Layered().recompute(), repeats, value=float("nan")).fly()
    repeats.refuse_others()
    assert ours.loss.isnan()


def counting(layer: Layer, inner: Tensor) -> Tensor:
    return inner * (1 + layer.runs * 1e-3)


def more_operators(layer: Layer, inner: Tensor) -> Tensor:
    return inner.exp() if layer.runs > 1 else inner


def fewer_operators(layer: Layer, inner: Tensor) -> Tensor:
    return inner if layer.runs > 1 else inner.exp()


def other_shape(layer: Layer, inner: Tensor) -> Tensor:
    return inner * (inner[:1] if layer.runs > 1 else inner).exp()


def one_call_more(layer: Layer, inner: Tensor) -> Tensor:
    if layer.runs > 1:
        pause_at_experts(0, inner, torch.zeros(TOKENS, 1, dtype=torch.int64), inner[:, :1])
    return inner


def gradient_inside(layer: Layer, inner: Tensor) -> Tensor:
    if layer.runs > 1:
        with torch.enable_grad():
            torch.autograd.grad(inner.exp().sum(), inner)
    return inner


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        (more_operators, r"saved tensor \d+ was|it saves more than"),
        (fewer_operators, r"saved tensor \d+ was|it saves"),
        (other_shape, r"saved tensor \d was \[5, 8\] torch.float32 and is \[1, 8\]"),
        (one_call_more, "it calls"),
        (gradient_inside, "it computes gradients|it saves more"),
    ],
)
@pytest.mark.parametrize("number", [0, 1], ids=["without experts", "with experts"])
def test_a_layer_with_another_forward_the_second_time_is_refused_at_once(
    twist: Callable[[Layer, Tensor], Tensor], words: str, number: int
) -> None:
    pilot = Pilot(Layered({number: twist}).recompute(), LayerRepeats())
    with pytest.raises(
        ModelError, match=rf"^layers\.{number} is another one when it runs again.*({words}).*recompute: none$"
    ):
        pilot.fly()
    assert num_hooks_off()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_layer_with_other_values_the_second_time_is_named_when_the_step_has_ended(number: int) -> None:
    repeats = LayerRepeats()
    Pilot(Layered({number: counting}).recompute(), repeats).fly()
    with pytest.raises(ModelError, match=rf"^layers\.{number} is another one .*other bits"):
        repeats.refuse_others()


def changes_a_buffer(layer: Layer, inner: Tensor) -> Tensor:
    layer.seen += 1
    return inner


def replaces_a_buffer(layer: Layer, inner: Tensor) -> Tensor:
    layer.seen = layer.seen + 1
    return inner


def changes_a_weight(layer: Layer, inner: Tensor) -> Tensor:
    with torch.no_grad():
        layer.first.bias.mul_(1)
    return inner


@pytest.mark.parametrize(
    ("twist", "what"), [(changes_a_buffer, "seen"), (replaces_a_buffer, "seen"), (changes_a_weight, r"first\.bias")]
)
def test_a_layer_that_changes_its_own_state_is_refused_before_it_does_so_twice(
    twist: Callable[[Layer, Tensor], Tensor], what: str
) -> None:
    pilot = Pilot(Layered({1: twist}).recompute(), LayerRepeats())
    with pytest.raises(ModelError, match=rf"^layers\.1 changes its {what} in its forward.*set recompute: none"):
        pilot.fly()
    assert pilot.model.layers[1].runs == 1 and num_hooks_off()


def test_an_input_that_is_changed_in_place_is_refused() -> None:
    class Changing(Layered):
        def forward(self, hidden: Tensor) -> Tensor:
            for layer in self.layers:
                given = hidden.clone()
                hidden = layer(given, self.scale)
                given.mul_(2)
            return hidden.mean()

    with pytest.raises(ModelError, match=r"an input of layers\.2, of shape \[5, 8\], is changed in place"):
        Pilot(Changing().recompute(), LayerRepeats()).fly()


def test_a_saved_tensor_that_is_changed_in_place_is_refused_as_torch_does() -> None:
    def spoil(layer: Layer, inner: Tensor) -> Tensor:
        saved = inner.exp()
        other = saved * 2
        with torch.no_grad():
            saved.mul_(3)
        return other

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Pilot(Layered({1: spoil}), None).fly()
    with pytest.raises(ModelError, match=r"layers\.1 changes in place a tensor \[5, 8\] that it saved"):
        Pilot(Layered({1: spoil}).recompute(), LayerRepeats()).fly()


def test_an_experts_call_outside_of_all_layers_is_refused() -> None:
    index, weights = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    flight = Flight(Forward(lambda: pause_at_experts(3, torch.ones(2, 3), index, weights)), True, LayerRepeats())
    with pytest.raises(ModelError, match="experts call 3 comes from outside of the layers"):
        flight.start()


def test_a_layer_inside_of_another_one_runs_again_with_it() -> None:
    class Nested(Layered):
        def forward(self, hidden: Tensor) -> Tensor:
            self.layers[2].twist = lambda layer, inner: inner + self.layers[0](inner, self.scale)
            return self.layers[2](self.layers[1](hidden, self.scale), self.scale).mean()

    repeats = LayerRepeats()
    ours = Pilot(Nested().recompute(), repeats).fly()
    repeats.refuse_others()
    assert differing(ours, Pilot(Nested(), None).fly()) == []
    assert [layer.runs for layer in ours.model.layers] == [2, 2, 2]


def test_without_gradients_and_outside_of_a_flight_nothing_is_recomputed() -> None:
    model = Layered().recompute()
    flight = Flight(Forward(lambda: model.layers[0](torch.ones(TOKENS, WIDTH), model.scale)), False, LayerRepeats())
    flight.start()
    assert flight.loss is not None and not flight.loss.requires_grad
    loss = model.layers[0](torch.ones(TOKENS, WIDTH), model.scale).sum()
    loss.backward()
    assert model.layers[0].runs == 2


def test_layers_whose_graph_is_never_walked_do_not_run_again() -> None:
    model = Layered().recompute()
    pilot = Pilot(model, LayerRepeats())
    with torch.no_grad():
        for piece in itertools.islice(pilot.pieces(), 4):
            piece()
    del pilot
    assert [layer.runs for layer in model.layers] == [1, 1, 1]
