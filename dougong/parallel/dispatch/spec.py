"""What messages between attention and experts must hold, and the check that they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.errors import LaunchError
from dougong.parallel.comm.exchange import place_in_words
from dougong.parallel.dispatch.crossing import Combine, Header
from dougong.parallel.schedules.operation import CallKey, MessageKind

ANY_DTYPE = None
"""The weights of rows have the dtype that the family's router gives them."""


@dataclass(frozen=True)
class PartSpec:
    """Shape and dtype that a message's part must have."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    def fits(self, part: Tensor) -> bool:
        """A part without a value may have any shape."""
        if math.prod(self.shape) == 0:
            return not part.numel()
        return tuple(part.shape) == self.shape and self.dtype in (ANY_DTYPE, part.dtype)

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype or 'any dtype'}"


@dataclass(frozen=True)
class DispatchSpec:
    """What fixes the messages of a job: vectors of `hidden_size` values of `dtype`, and where
    outputs are combined. `names`: what the model calls its sites, for errors."""

    hidden_size: int
    dtype: torch.dtype
    device: torch.device
    combine: Combine = "at_attention"
    names: Sequence[str] = ()

    @property
    def at_attention(self) -> bool:
        return self.combine == "at_attention"

    def no_vectors(self) -> Tensor:
        """Vectors [0, H]."""
        return torch.empty(0, self.hidden_size, dtype=self.dtype, device=self.device)

    def headers(self, num_lanes: int, num_experts: int) -> PartSpec:
        """The first part of rows: a header of each of the sender's lanes, in whole numbers."""
        return PartSpec((num_lanes, Header.num_numbers(num_experts)), torch.int64)

    def rows(self, headers: PartSpec, num_tokens: int, num_rows: int) -> list[PartSpec]:
        """To the experts: headers, the tokens' vectors, the rows' slots (and weights)."""
        parts = [headers, self._vectors(num_tokens), PartSpec((num_rows,), torch.int32)]
        return parts if self.at_attention else [*parts, _weights(num_rows)]

    def outputs(self, num_tokens: int, num_rows: int) -> list[PartSpec]:
        """To attention: an output of each row, or a sum for each token."""
        return [self._vectors(num_rows if self.at_attention else num_tokens)]

    def output_gradients(self, num_tokens: int, num_rows: int) -> list[PartSpec]:
        """To the experts: the gradients of the tokens' combined outputs (and the rows' weights)."""
        parts = [self._vectors(num_tokens)]
        return [*parts, _weights(num_rows)] if self.at_attention else parts

    def row_gradients(self, num_tokens: int, num_rows: int) -> list[PartSpec]:
        """To attention: like outputs, and where the experts combine, the rows' weights' too."""
        parts = self.outputs(num_tokens, num_rows)
        return parts if self.at_attention else [*parts, _weights(num_rows)]

    def _vectors(self, count: int) -> PartSpec:
        return PartSpec((count, self.hidden_size), self.dtype)


def _weights(num_rows: int) -> PartSpec:
    return PartSpec((num_rows,), ANY_DTYPE)


def _all_fit(parts: Sequence[Tensor], due: Sequence[PartSpec]) -> bool:
    if len(parts) != len(due):
        return False
    return all(spec.fits(part) for spec, part in zip(due, parts, strict=True))


@dataclass(frozen=True)
class Delivery:
    """Which message it is that is checked: from whom, to whom, and where in the step."""

    kind: MessageKind
    key: CallKey
    sender: int
    receiver: int

    def check(self, parts: Sequence[Tensor], due: Sequence[PartSpec], names: Sequence[str]) -> None:
        """Raises LaunchError when the parts are not what both ends have agreed on."""
        if _all_fit(parts, due):
            return
        sent = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in parts)
        wanted = ", ".join(str(spec) for spec in due)
        raise LaunchError(
            f"worker {self.sender} sent worker {self.receiver} {sent} as {self.kind.value} of "
            f"{place_in_words(self.key, names)}, where {wanted} is due; the two do not run the "
            "same job, which is a fault of dougong: please report it with both logs"
        )
