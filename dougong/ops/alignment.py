"""Where tensors begin that a library's product reads or writes.

A vendor's library may choose its kernel by how a pointer is aligned (cublasLt asks for it, up to
256 bytes), and another kernel has other bits. Where a slice of a buffer begins follows from the
layout, so on a device such products see multiples of `ALIGNMENT_BYTES` alone, as if each tensor had
been allocated by itself. On a processor they were found not to mind
(`tests/ops/test_invariance.py`), and nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dougong.ops.sizes import ALIGNMENT_BYTES


def is_aligned(tensor: Tensor) -> bool:
    """Whether a product may take it as it lies."""
    return tensor.is_cpu or tensor.data_ptr() % ALIGNMENT_BYTES == 0


def aligned(tensor: Tensor) -> Tensor:
    """The same values where a product may read them: the tensor itself, or a copy."""
    return tensor if is_aligned(tensor) else tensor.clone()


def product_into(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out [A, B] = left [A, K] times right [K, B]; left and out may be slices of larger buffers."""
    if is_aligned(out):
        torch.mm(aligned(left), right, out=out)
    else:
        out.copy_(aligned(left) @ right)
