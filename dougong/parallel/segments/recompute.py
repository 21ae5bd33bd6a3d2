"""Layers whose backward runs them again, instead of keeping what they have computed.

Of each layer and flight its inputs are kept, and the answers of the experts that it called. The
first saved tensor that the walk asks for runs the layer's own forward once more: the experts'
answers are given again, random numbers drawn again, and every tensor that its graph would have
kept is there until its node has been walked. The same kernels on the same numbers give the same
bits (docs/design/recomputation.md; Chen et al. 2016, arXiv 1604.06174).

torch's own checkpoint would not do: it tells one backward from the next by the engine's task, and
a walk over the tape has none, so that it would run a layer again for every saved tensor.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import greenlet
from torch import Tensor, nn

from dougong.errors import ModelError
from dougong.parallel.segments.chance import RandomState, chance_undisturbed
from dougong.parallel.segments.layer_hooks import AskedExperts, LayerHooks
from dougong.parallel.segments.layer_values import (
    INSTEAD,
    LayerArguments,
    LayerTensor,
    LayerWeights,
    bits_differ,
    tensors_in,
)
from dougong.parallel.segments.repeats import LayerRepeats, other_forward


@dataclass(frozen=True)
class _Answer:
    """What a layer asked its experts for, the combined answer [T, H] that it went on with, and the
    state of chance from there on."""

    site: int
    index: Tensor
    weights: Tensor
    output: Tensor
    chance: RandomState


class Layers:
    """The layers of one model that run again. Made once: it replaces their forwards, in place."""

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], buffers: Sequence[Tensor] = ()
    ) -> None:
        """`layers`: by name. The model's tensors must have their memory already, or be given it in
        `buffers`."""
        kept = [*model.parameters(), *model.buffers(), *buffers]
        self._storages = frozenset(_storage_of(tensor) for tensor in kept)
        self.device = next((t.device for t in kept if not t.is_meta), torch.device("cpu"))
        for name, module in layers.items():
            self._replace(name, module)

    def is_kept(self, tensor: Tensor) -> bool:
        """Whether it is a weight or a buffer, or a view of one: it needs no second computation."""
        return _storage_of(tensor) in self._storages

    def _replace(self, name: str, module: nn.Module) -> None:
        plain = module.forward
        state = LayerWeights(name, module)

        @functools.wraps(plain)
        def forward(*args: Any, **named: Any) -> Any:
            here = LayerHooks.here()
            # A layer inside another one belongs to that one; in validation nothing is kept at all.
            if here is None or here.is_open or not torch.is_grad_enabled():
                return plain(*args, **named)
            assert here.repeats is not None, "a layer that runs again is open from its beginning"
            run = LayerRun(self, name, plain, LayerArguments.of(args, named), here.repeats)
            before = state.now()
            with here.opened(run):
                output = plain(*args, **named)
            state.refuse_change(before)
            run.end(output)
            return output

        module.forward = forward


class LayerRun:
    """One forward of one layer on one flight, and its repetition.

    Nothing in here has a graph: the layer's own graph holds this object by its saved tensors, and a
    circle through it would never be freed.
    """

    def __init__(
        self,
        layers: Layers,
        name: str,
        forward: Callable[..., Any],
        given: LayerArguments,
        repeats: LayerRepeats,
    ) -> None:
        self._layers, self._name, self._forward = layers, name, forward
        self._given, self._repeats = given, repeats
        self._chance = RandomState.now(layers.device)
        self._answers: list[_Answer] = []
        self._places: list[weakref.ref[_SavedPlace]] = []
        self._outputs: list[LayerTensor] = []

    def pack(self, tensor: Tensor) -> Tensor | _SavedPlace:
        if self._layers.is_kept(tensor):
            return tensor
        place = _SavedPlace(tensor)
        self._places.append(weakref.ref(place))
        return place

    def unpack(self, packed: Tensor | _SavedPlace) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if packed.tensor is None:
            self._run_again()
        assert packed.tensor is not None, "all saved tensors are there after a repetition"
        return packed.tensor

    def answered(self, call: AskedExperts) -> None:
        assert call.output is not None
        found = (call.index, call.weights.detach(), call.output.detach())
        self._answers.append(_Answer(call.site, *found, RandomState.now(self._layers.device)))

    def end(self, output: Any) -> None:
        """The forward has ended. Its result is the next layer's input, which is kept anyway."""
        self._given.refuse_change(self._name)
        self._outputs = [LayerTensor.of(tensor) for tensor in tensors_in(output)]

    def _run_again(self) -> None:
        """Fill all places whose nodes have not been walked yet, and forget what that took."""
        again = _Again(self._layers, self._name, self._places)
        given, answers, outputs = self._given, self._answers, self._outputs
        given.refuse_change(self._name)
        self._answers, self._places, self._outputs = [], [], []
        with chance_undisturbed(self._layers.device), torch.enable_grad():
            self._chance.put_back()
            run = greenlet(lambda: again.run(self._forward, given))
            again.hooks.belongs_to(run)
            differences = self._drive(run, answers)
        results = list(again.results)
        again.end(len(results) == len(outputs))
        pairs = zip(results, outputs, strict=True)
        # What the model has written over since is not there to be compared with.
        differences += [bits_differ(result, o.tensor) for result, o in pairs if o.is_unchanged]
        if differences:
            self._repeats.add(self._name, torch.stack(differences).any())

    def _drive(self, run: greenlet, answers: Sequence[_Answer]) -> list[Tensor]:
        """Let it run to its end, from experts call to experts call; whether each was another one,
        as a bool on the device."""
        differences: list[Tensor] = []
        try:
            call = run.switch()
            for answer in answers:
                if run.dead or call.site != answer.site:
                    raise other_forward(self._name, "it calls other experts")
                differences.append(bits_differ(call.index, answer.index))
                differences.append(bits_differ(call.weights.detach(), answer.weights))
                answer.chance.put_back()
                call.output = answer.output.detach().requires_grad_()
                call = run.switch(call.output)
            if not run.dead:
                raise other_forward(self._name, "it calls more experts")
        finally:
            if not run.dead:
                run.throw()
        return differences


class _SavedPlace:
    """Stands in the graph for a tensor that was not kept. It goes with its node, and takes along
    what a repetition has put into it."""

    __slots__ = ("__weakref__", "dtype", "shape", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.tensor: Tensor | None = None


class _Again:
    """Hooks of a layer that runs again: they put what its graph would save into the places of the
    first run. The graph itself is of no use, and keeps nothing."""

    def __init__(
        self, layers: Layers, name: str, places: Sequence[weakref.ref[_SavedPlace]]
    ) -> None:
        self._layers, self._name, self._places = layers, name, places
        self._number = 0
        self._filled: list[tuple[_SavedPlace, int]] = []
        self.hooks = LayerHooks(None)
        self.results: list[Tensor] = []

    def run(self, forward: Callable[..., Any], given: LayerArguments) -> None:
        args, named = given.again()
        with self.hooks.opened(self):
            output = forward(*args, **named)
        self.results = [tensor.detach() for tensor in tensors_in(output)]

    def pack(self, tensor: Tensor) -> Tensor | None:
        if self._layers.is_kept(tensor):
            return tensor
        number = self._number
        self._number += 1
        if number >= len(self._places):
            raise other_forward(self._name, f"it saves more than {number} tensors")
        place = self._places[number]()
        if place is None:  # its node is gone
            return None
        if (place.shape, place.dtype) != (tensor.shape, tensor.dtype):
            was, found = (f"{list(t.shape)} {t.dtype}" for t in (place, tensor))
            raise other_forward(self._name, f"saved tensor {number} was {was} and is {found}")
        place.tensor = tensor.detach()
        self._filled.append((place, tensor._version))
        return None

    def unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        raise other_forward(self._name, "it computes gradients inside of its forward")

    def answered(self, call: AskedExperts) -> None:
        """Answers are given to it, not taken."""

    def end(self, has_all_results: bool) -> None:
        """Raises ModelError where something is missing, or was changed after it had been saved
        (which torch itself refuses where nothing is recomputed)."""
        if self._number != len(self._places) or not has_all_results:
            counts = f"it saves {self._number} tensors and not {len(self._places)}"
            raise other_forward(self._name, counts)
        for place, version in self._filled:
            if place.tensor is not None and place.tensor._version != version:
                text = f"{self._name} changes in place a tensor {list(place.shape)} that it saved"
                raise ModelError(f"{text} for its backward; {INSTEAD}, and torch says where")


def _storage_of(tensor: Tensor) -> int:
    """Which memory a tensor is a view of. Not its address: memory may be given back for a while
    and come again elsewhere."""
    return int(tensor.untyped_storage()._cdata)
