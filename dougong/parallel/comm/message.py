"""A message between attention and experts: its tensors, and the head that travels before them.

A head says whose message it is and what it holds, so nothing is padded, and nobody has to know a
size before it comes. All heads are int64 and of one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LABEL = ("generation", "step", "site", "microbatch", "message")
"""What tells a message from every other one between the same two workers."""
MOST_PARTS, MOST_DIMENSIONS = 4, 2
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
)
_PART_NUMBERS = 2 + MOST_DIMENSIONS  # dtype, number of dimensions, sizes
HEAD_NUMBERS = len(LABEL) + 1 + MOST_PARTS * _PART_NUMBERS
HEAD_BYTES = 8 * HEAD_NUMBERS


@dataclass
class TensorMessage:
    """The parts of one message: at most four tensors of at most two dimensions."""

    parts: Sequence[Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts)


def make_head(label: Sequence[int], message: TensorMessage) -> Tensor:
    """The head of a message, int64 [HEAD_NUMBERS]: its label, the number of its parts, then dtype
    and shape of each."""
    assert len(label) == len(LABEL)
    assert len(message.parts) <= MOST_PARTS, f"{len(message.parts)} parts in a message"
    numbers = [*label, len(message.parts)]
    for part in message.parts:
        numbers += _description(part)
    head = torch.zeros(HEAD_NUMBERS, dtype=torch.int64)
    head[: len(numbers)] = torch.tensor(numbers)
    return head


def _description(part: Tensor) -> list[int]:
    """`_PART_NUMBERS` numbers: dtype, number of dimensions, and sizes, those that it lacks 0."""
    missing = [0] * (MOST_DIMENSIONS - part.dim())
    return [DTYPES.index(part.dtype), part.dim(), *part.shape, *missing]


def label_of(head: Tensor) -> list[int]:
    """The label that a head carries."""
    label: list[int] = head[: len(LABEL)].tolist()
    return label


def make_room(head: Tensor, device: torch.device) -> TensorMessage:
    """Memory for the message that a head describes. Whole numbers that say what the other parts
    mean (int64) are read by the host and stay there; all else lies on the device."""
    num_parts = int(head[len(LABEL)])
    described = head[len(LABEL) + 1 :].view(MOST_PARTS, _PART_NUMBERS)
    parts = []
    for dtype_number, dimensions, *sizes in described[:num_parts].tolist():
        dtype = DTYPES[dtype_number]
        where = "cpu" if dtype == torch.int64 else device
        parts.append(torch.empty(sizes[:dimensions], dtype=dtype, device=where))
    return TensorMessage(parts)
