"""What messages between attention and experts hold, and the check that they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.errors import LaunchError
from dougong.ops.permute import sum_dtype
from dougong.parallel.comm.message import PartRoom, SplitTensor
from dougong.parallel.dispatch.crossing import Combine
from dougong.parallel.exchange.expected import place_in_words
from dougong.parallel.schedules.operation import CallKey, MessageKind


@dataclass(frozen=True)
class Sizes:
    """How much of an experts call goes between a worker and each of its peers. `tokens`: that
    cross, `rows`: of the experts; `weights_dtype`: of the rows' weights, as the family's router
    gives them."""

    tokens: Sequence[int]
    rows: Sequence[int]
    weights_dtype: torch.dtype


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

    def num_parts(self, kind: MessageKind) -> int:
        """How many tensors a message is of."""
        return len(self.rooms(kind, Sizes((), (), self.dtype)))

    def rooms(self, kind: MessageKind, sizes: Sizes) -> list[PartRoom]:
        """The parts of a kind of message.

        Rows: the tokens' vectors, the rows' slots (and weights). Outputs: one of each row, or a sum
        for each token. Output gradients: of the tokens' combined outputs (and the rows' weights).
        Row gradients: like outputs, and those of the rows' weights.
        """
        by_token = PartRoom(sizes.tokens, (self.hidden_size,), self.dtype)
        by_row = PartRoom(sizes.rows, (self.hidden_size,), self.dtype)
        weights = PartRoom(sizes.rows, (), sizes.weights_dtype)
        slots = PartRoom(sizes.rows, (), torch.int32)
        if kind is MessageKind.ROWS:
            return [by_token, slots] if self.at_attention else [by_token, slots, weights]
        if kind is MessageKind.OUTPUT_GRADIENTS:
            return [by_token, weights] if self.at_attention else [by_token]
        vectors = by_row if self.at_attention else by_token
        if kind is MessageKind.OUTPUTS:
            return [vectors]
        return [vectors, PartRoom(sizes.rows, (), sum_dtype(self.dtype))]

    def check(
        self, kind: MessageKind, key: CallKey, parts: Sequence[SplitTensor], sizes: Sizes
    ) -> None:
        """Raises LaunchError when what is to be sent is not what the receivers make room for."""
        due = self.rooms(kind, sizes)
        if len(parts) == len(due) and all(map(PartRoom.fits, due, parts)):
            return
        found = ", ".join(f"{tuple(part.values.shape)} {part.values.dtype}" for part in parts)
        wanted = ", ".join(map(str, due))
        raise LaunchError(
            f"{found} are to be sent as {kind.value} of {place_in_words(key, self.names)}, where "
            f"{wanted} are due; this is a fault of dougong: please report it with the log"
        )
