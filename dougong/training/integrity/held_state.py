"""What a worker holds from one step to the next, and sums of its bits: nobody computes it between
two updates, so that it must stay as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.checkpoint.manifest import MODEL_GROUP
from dougong.ops.bit_sum import WRAP, bit_sums
from dougong.training.memory.source import StateKey
from dougong.training.optimizers.base import Optimizer

COPY = "compute copy"
"""In the place of a kind of state: what a worker computes with, of which another tensor is the
master."""

BitSums = dict[StateKey, int]
"""Of each tensor's bits, modulo 2**64."""


def in_words(key: StateKey) -> str:
    """A tensor of a worker's state."""
    group, name = key
    return f"the weight {name}" if group == MODEL_GROUP else f"the {group} of {name}"


@dataclass(frozen=True)
class HeldState:
    """One worker's tensors. `masters`: what it owns; `copies`: what it computes with; `spread`: the
    names of those copies that every worker with lanes has, as their owners sent them."""

    masters: Mapping[str, Tensor]
    copies: Mapping[str, Tensor]
    spread: frozenset[str]
    optimizer: Optimizer

    def sums(self) -> BitSums:
        """As they are now. Waits for the device."""
        found: BitSums = {}
        by_device: dict[torch.device, list[tuple[StateKey, Tensor]]] = {}
        for key, tensor in self.tensors():
            by_device.setdefault(tensor.device, []).append((key, tensor))
        for pairs in by_device.values():
            sums = bit_sums([tensor for _, tensor in pairs]).tolist()
            for (key, _), value in zip(pairs, sums, strict=True):
                found[key] = value % WRAP
        return found

    def spread_sums(self, sums: BitSums) -> dict[str, int]:
        """Of `sums`, those that must be the same on every worker with lanes, by name."""
        found = {}
        for name in sorted(self.spread & self.copies.keys()):
            key = COPY, name
            found[name] = sums[key if key in sums else (MODEL_GROUP, name)]
        return found

    def tensors(self) -> Iterator[tuple[StateKey, Tensor]]:
        """All of them, each memory once."""
        for name, master in self.masters.items():
            yield (MODEL_GROUP, name), master
        for kind, name, value in self.optimizer.state():
            yield (kind, name), value
        for name, copy in self.copies.items():
            if name not in self.masters or self.masters[name].data_ptr() != copy.data_ptr():
                yield (COPY, name), copy
