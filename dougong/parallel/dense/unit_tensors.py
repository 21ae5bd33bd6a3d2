"""A model's dense tensors as they come and go: buffers that have memory only while their unit is
there, and what this worker owns of them all the time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dougong.parallel.dense.buckets import BucketTensor, FlatTensors
from dougong.parallel.dense.unit_buckets import unit_buckets
from dougong.parallel.segments.tape import GraphNode, leaf_node
from dougong.parallel.units import DenseUnits


class UnitTensors(FlatTensors):
    """The trained dense tensors of a model, in compute precision. Their memory is given back while
    nobody uses them: what a graph has saved of them are views of memory that comes again.

    A tensor that is not there has no elements: a model that uses it by another way than through its
    own module gets an error, and no made-up numbers.
    """

    def __init__(
        self,
        units: DenseUnits,
        parameters: Mapping[str, nn.Parameter],
        shapes: Mapping[str, BucketTensor],
        owners: Mapping[str, int],
        masters: Mapping[str, Tensor],
    ) -> None:
        """`parameters`: the model's own, of no elements yet; `shapes`: what they are, and their
        dtypes; `masters`: of those that this worker owns, by name, more may be among them."""
        self.units, self.parameters = units, parameters
        self._masters = masters
        self.buckets, self.groups = unit_buckets(units, shapes, owners)
        self.buffers: list[Tensor] = []
        self._nothing = {name: one.data for name, one in parameters.items()}
        self._nodes: list[GraphNode] = []
        for number, bucket in enumerate(self.buckets):
            like = parameters[next(iter(bucket.shapes))]
            self.buffers.append(like.new_empty(bucket.numel).detach())
            self._show(number)
            # A leaf's node knows the tensor's shape from when it was made, and is kept with it.
            self._nodes += [leaf_node(parameters[name]) for name in bucket.shapes]
            self._hide(number)

    def take_memory(self, group: int) -> None:
        """For a group of tensors, with the values of what this worker owns."""
        for number in self.groups[group]:
            bucket, flat = self.buckets[number], self.buffers[number]
            flat.untyped_storage().resize_(flat.numel() * flat.element_size())
            for name in bucket.owned:
                if name in self._masters:
                    bucket.view(flat, name).copy_(self._masters[name])

    def show(self, group: int) -> None:
        """All values are there: the model computes with them."""
        for number in self.groups[group]:
            self._show(number)

    def free(self, group: int) -> None:
        """Give the memory back. Nothing may be under way."""
        for number in self.groups[group]:
            self._hide(number)

    def values(self, group: int) -> dict[str, Tensor]:
        """Of a group that is there, by the names by which they are owned."""
        found = {}
        for number in self.groups[group]:
            bucket = self.buckets[number]
            for name in bucket.owned:
                found[name] = bucket.view(self.buffers[number], name)
        return found

    def _show(self, number: int) -> None:
        bucket = self.buckets[number]
        for name in bucket.shapes:
            self.parameters[name].data = bucket.view(self.buffers[number], name)

    def _hide(self, number: int) -> None:
        for name in self.buckets[number].shapes:
            self.parameters[name].data = self._nothing[name]
        self.buffers[number].untyped_storage().resize_(0)


def without_memory(
    model: nn.Module, shapes: Mapping[str, nn.Parameter], device: torch.device
) -> dict[str, nn.Parameter]:
    """Parameters of no elements in the place of some that are on meta, wherever the model has
    them; by name."""
    parameters = {}
    for name, shape in shapes.items():
        empty = torch.empty(0, dtype=shape.dtype, device=device)
        parameters[name] = nn.Parameter(empty, requires_grad=shape.requires_grad)
    places = {id(shape): parameters[name] for name, shape in shapes.items()}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in places:
                module._parameters[name] = places[id(parameter)]
    return parameters
