"""Which windows of a source are held out, and in which order the others are read. Imports no
torch."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dougong.ops.counter_rng import Permutation

# The held-out windows do not follow the job's seed: runs with other seeds are measured on the
# same text.
_HELD_OUT_SEED = 0


def num_held_out(num_windows: int, fraction: float) -> int:
    """How many of so many windows are never trained on."""
    return math.ceil(num_windows * fraction)


@dataclass(frozen=True, eq=False)
class WindowOrder:
    """The windows of one source. `source`: its place in a mixture, 0 where it is alone; it keys the
    order of each epoch beside the seed."""

    num_windows: int
    num_held_out: int
    seed: int
    source: int = 0

    @property
    def num_train(self) -> int:
        """Windows of one epoch."""
        return self.num_windows - self.num_held_out

    def train(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The windows of samples, counted in this source; they may belong to two epochs.

        Two permutations, one after the other: the epoch's orders the places 0 .. num_train - 1, the
        fixed one says which window has which place. Its first `num_held_out` places are skipped, so
        what is held out is never met, in whatever order an epoch goes.
        """
        epochs, places = np.divmod(samples, self.num_train)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            places[here] = self._epoch(epoch)(places[here])
        return self._fixed(self.num_held_out + places)

    def held_out(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The held-out windows of places 0 .. num_held_out - 1."""
        return self._fixed(places)

    def _epoch(self, epoch: int) -> Permutation:
        # The first source of a mixture is read in the order that it has alone.
        more = ("source", self.source) if self.source else ()
        return Permutation(self.num_train, self.seed, "epoch", epoch, *more)

    @functools.cached_property
    def _fixed(self) -> Permutation:
        """The fixed order of all windows whose first `num_held_out` places are held out."""
        return Permutation(self.num_windows, _HELD_OUT_SEED, "held out")
