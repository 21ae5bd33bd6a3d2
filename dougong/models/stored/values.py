"""The values of a folder's tensors in float32; no more leaves the disk than is asked for, or than
the blocks that hold it: a matrix with one scale is one block."""

from __future__ import annotations

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import pad

from dougong.models.library.dequantisers import fp8_values, mxfp4_values
from dougong.models.stored.headers import StoredTensor
from dougong.models.stored.quantised import QuantisedTensor


def read_all(tensor: StoredTensor) -> Tensor:
    """A whole tensor: floating values in float32, others as they are."""
    if isinstance(tensor, QuantisedTensor):
        return read_rows(tensor, 0, tensor.shape[0])
    return _as_float32(_whole(tensor))


def read_rows(tensor: StoredTensor, begin: int, end: int) -> Tensor:
    """The same of `tensor[begin:end]`, by its first dimension."""
    if not isinstance(tensor, QuantisedTensor):
        return _as_float32(_slice(tensor, begin, end))
    if tensor.block is None:
        return mxfp4_values(_slice(tensor.values, begin, end), _slice(tensor.scales, begin, end))
    if len(tensor.shape) > 2:
        values, scales = _slice(tensor.values, begin, end), _slice(tensor.scales, begin, end)
        return _of_blocks(values, scales, tensor.block)
    return _rows_of_matrix(tensor, tensor.block, begin, end)


def _rows_of_matrix(
    tensor: QuantisedTensor, block: tuple[int, int], begin: int, end: int
) -> Tensor:
    """Read are the blocks that hold the rows."""
    height = block[0]
    first, last = begin // height, -(-end // height)
    values = _slice(tensor.values, first * height, min(last * height, tensor.shape[0]))
    if tensor.scales.shape in ((), (1,)):
        scales = _whole(tensor.scales).reshape(1, 1)
    else:
        scales = _slice(tensor.scales, first, last)
    return _of_blocks(values, scales, block)[begin - first * height : end - first * height]


def _of_blocks(values: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """The last block of rows or columns may be cut short: transformers' dequantiser takes whole
    ones, so zeros stand in for the rest."""
    rows, stored = values.shape[-2:]
    columns = stored * 2 if values.dtype == torch.int8 else stored
    missing = scales.shape[-2] * block[0] - rows, scales.shape[-1] * block[1] - columns
    if any(missing):
        values = _padded(values, missing)
    return fp8_values(values, scales)[..., :rows, :columns]


def _padded(values: Tensor, missing: tuple[int, int]) -> Tensor:
    rows, columns = missing
    packed = columns // 2 if values.dtype == torch.int8 else columns
    # The bits of zero are zero in either form; FP8 itself cannot be padded.
    return pad(values.view(torch.uint8), (0, packed, 0, rows)).view(values.dtype)


def _slice(tensor: StoredTensor, begin: int, end: int) -> Tensor:
    with safe_open(tensor.file, framework="pt") as opened:
        rows: Tensor = opened.get_slice(tensor.name)[begin:end]
    return rows


def _whole(tensor: StoredTensor) -> Tensor:
    with safe_open(tensor.file, framework="pt") as opened:
        found: Tensor = opened.get_tensor(tensor.name)
    return found


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
