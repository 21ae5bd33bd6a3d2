"""What a comparison of two checkpoints or runs has found, and how it is said."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.tensorfile import as_array

NaturalOrder = list[tuple[int, int, str]]


@dataclass(frozen=True)
class Difference:
    """One tensor, or one number of a step's metrics, that differs. `step`: None of what has none.

    `num_different` of `num_elements` differ in their bits; `largest` is the largest difference of
    their values, None where values cannot be subtracted. `note` says more: a tensor missing, a file
    that is not what its manifest says.
    """

    step: int | None
    name: str
    num_different: int = 1
    num_elements: int = 1
    largest: float | None = None
    note: str = ""

    def __str__(self) -> str:
        where = self.name if self.step is None else f"step {self.step}: {self.name}"
        if self.note and self.num_elements == 1:
            return f"{where}: {self.note}"
        largest = "" if self.largest is None else f", by at most {self.largest:.6g}"
        note = f" ({self.note})" if self.note else ""
        return (
            f"{where}: {self.num_different} of {self.num_elements} elements differ{largest}{note}"
        )


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints or runs compared. `compared`: what was looked at, in words; `common`: the
    steps that two runs of unequal length share, and `beyond`: which steps only one of them has,
    both in words and empty for runs of equal length; `alike`: how equal those are that are.

    `differences` are ordered by step, metrics first, then tensors in the model's order.
    """

    compared: str
    differences: tuple[Difference, ...]
    common: str = ""
    beyond: str = ""
    alike: str = "equal, bit by bit"

    @property
    def equal(self) -> bool:
        """Whether all that both have is the same."""
        return not self.differences

    @property
    def same_length(self) -> bool:
        """Whether both have the same steps."""
        return not self.beyond

    @property
    def first(self) -> Difference | None:
        return self.differences[0] if self.differences else None

    def __str__(self) -> str:
        return "\n".join(self.lines(10))

    def lines(self, limit: int) -> list[str]:
        """For people: the verdict, the first `limit` differences one a line, how many more."""
        if self.equal and self.same_length:
            return [f"{self.alike}: {self.compared}"]
        if self.equal:
            return [f"equal on {self.common}; {self.beyond}", f"compared: {self.compared}"]
        lines = [f"different: {self.compared}; first:"]
        lines += [f"  {difference}" for difference in self.differences[:limit]]
        num_left_out = len(self.differences) - limit
        if num_left_out > 0:
            lines.append(f"  and {num_left_out} more")
        if self.beyond:
            lines.append(f"of unequal length: {self.beyond}")
        return lines


def natural_order(name: str) -> NaturalOrder:
    """Sorts names as people do: layer 2 before layer 10."""
    words = re.split(r"(\d+)", name)
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in words]


def count_different(
    a: bytes | bytearray, b: bytes | bytearray, dtype: str
) -> tuple[int, float | None]:
    """(elements that differ in their bits, the largest difference of those finite in both)."""
    x, y = as_array(a, dtype), as_array(b, dtype)
    # Bits, not values: 0.0 and -0.0 differ, and a NaN equals itself.
    bits = np.dtype(f"u{x.itemsize}")
    different = x.view(bits) != y.view(bits)
    num_different = int(different.sum())
    if dtype.startswith("F8_") or x.dtype.kind not in "fiu":
        return num_different, None
    x_values = x[different].astype(np.float64)
    y_values = y[different].astype(np.float64)
    return num_different, _largest_gap(x_values, y_values)


def _largest_gap(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    finite = np.isfinite(x) & np.isfinite(y)
    gaps = np.abs(x[finite] - y[finite])
    return float(gaps.max()) if gaps.size else None
