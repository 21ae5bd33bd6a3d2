"""What is to travel: a tensor, and who is at the other end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transfer:
    """A tensor for `rank`, or the memory for one from it. Contiguous. `tag`: the same number at
    both ends, by which messages between two ranks are told apart; those that begin together between
    two islands have different ones."""

    rank: int
    tensor: Tensor
    tag: int = 0

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()
