"""Which dense tensors are there together, where each worker keeps only what it owns of them.

A unit is a decoder layer, or another module that owns tensors: its tensors are gathered before it
is used and let go behind it (ZeRO's third stage, Rajbhandari et al. 2020, arXiv 1910.02054). Which
there are, and in which order, follows from the model alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A module by name, and the names of the trained tensors that come and go with it."""

    name: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class DenseUnits:
    """Of a model, in the order in which its modules were made, which is that of a forward.

    lasting     names of tensors that are there throughout a step, since several modules use them
                (tied weights), or one around the layers
    by_segment  the units that each segment of a forward touches, first and last, ascending
    """

    units: tuple[Unit, ...]
    lasting: tuple[str, ...]
    by_segment: tuple[tuple[int, int], ...]

    @property
    def kept_from(self) -> int:
        """The units from this one on belong to the last segment, whose backward follows its forward
        at once: between the two they stay."""
        return self.by_segment[-1][0]

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Names of tensors that are gathered together: the lasting ones, then unit by unit."""
        yield self.lasting
        for unit in self.units:
            yield unit.tensors
