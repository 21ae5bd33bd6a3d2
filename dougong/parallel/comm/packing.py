"""Several tensors as one message of the native library.

HCCL takes no two messages of one direction to one peer in a batch (HcclBatchSendRecv), and NCCL
does less with one than with several. So whatever goes to a peer at a time goes in one buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.ops.sizes import ALIGNMENT_BYTES, rounded_up

ALIGNMENT = ALIGNMENT_BYTES
"""Bytes at whose multiples tensors begin in a buffer, as they do in a device's own allocator: the
kernels that a library chooses follow from that."""


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Their bytes, uint8, each at a multiple of `ALIGNMENT`; of one alone its own memory. They are
    contiguous and lie on one device."""
    if len(tensors) == 1:
        return as_bytes(tensors[0])
    buffer = room_for(tensors)
    for place, tensor in zip(places(buffer, tensors), tensors, strict=True):
        place.copy_(as_bytes(tensor))
    return buffer


def room_for(tensors: Sequence[Tensor]) -> Tensor:
    """Memory for what `pack` makes of tensors like these; of one alone its own."""
    if len(tensors) == 1:
        return as_bytes(tensors[0])
    size = sum(rounded_up(tensor.nbytes, ALIGNMENT) for tensor in tensors)
    return torch.empty(size, dtype=torch.uint8, device=tensors[0].device)


def places(buffer: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Where each of them lies in the buffer: its bytes."""
    found, begin = [], 0
    for tensor in tensors:
        found.append(buffer[begin : begin + tensor.nbytes])
        begin += rounded_up(tensor.nbytes, ALIGNMENT)
    return found


def as_bytes(tensor: Tensor) -> Tensor:
    """A contiguous tensor's memory, as uint8 of one dimension."""
    return tensor.view(-1).view(torch.uint8)
