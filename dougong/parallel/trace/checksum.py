"""A 64-bit checksum of a tensor's raw bits, taken where the tensor lies, without floating-point
arithmetic.

The bytes are read as 32-bit words and folded into rows. A row's words are multiplied with fixed odd
numbers of 64 bits and added (wrap-around, so the order is of no matter); each row's sum is
scrambled with its place by a bijection, and the scrambled sums are added. So one changed word, and
two words of a row that change places, are seen for certain (the differences of the factors are no
multiples of 2**33, and those of words are less than 2**32); any other change is missed once in
2**64. Two passes: a product and a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from dougong.ops.mixing import STEP, as_signed, mix_signed

WORD_BYTES = 4
WIDTH = 1024
"""Words in a row of the fold."""
TENSORS_AT_ONCE = 256
ROWS_AT_ONCE = {"cpu": 256}
"""Bounds the memory of the products (8 KiB a row); on the CPU they then stay in its cache."""
ROWS_AT_ONCE_ELSEWHERE = 1 << 14

_LENGTH = 1 << 41
"""The tensor's length in bytes counts as one more row, in a place of its own."""
_SIGNED_STEP = as_signed(STEP)


def checksum(tensor: Tensor) -> int:
    """The checksum of one tensor of any dtype and shape, from 0 to 2**64 - 1. Equal bits in equal
    order give equal checksums on every device and for every shape."""
    return checksums([tensor])[0]


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """The checksums of several tensors of one device. Waits for the device once."""
    if not tensors:
        return []
    found = []
    with torch.no_grad():
        fold = _Fold(tensors[0].device, max(_num_bytes(tensor) for tensor in tensors))
        for first in range(0, len(tensors), TENSORS_AT_ONCE):
            found.append(_checksums(tensors[first : first + TENSORS_AT_ONCE], fold))
        signed: list[int] = torch.cat(found).tolist()
    return [value % (1 << 64) for value in signed]


def factors(device: torch.device) -> Tensor:
    """The odd factors of a row's words, int64 [WIDTH]."""
    return mix_signed(torch.arange(1, WIDTH + 1, device=device) * _SIGNED_STEP) | 1


class _Fold:
    """Weighted sums of rows, with memory for the products of as many as are taken at once."""

    def __init__(self, device: torch.device, most_bytes: int) -> None:
        self.weights = factors(device)
        most_rows = max(1, most_bytes // (WIDTH * WORD_BYTES))
        self._at_once = min(most_rows, ROWS_AT_ONCE.get(device.type, ROWS_AT_ONCE_ELSEWHERE))
        self._products = torch.empty(self._at_once, WIDTH, dtype=torch.int64, device=device)

    def sums(self, words: Tensor) -> list[Tensor]:
        """Of the rows in their order, in pieces; the last row may be short."""
        num_rows = len(words) // WIDTH
        whole, rest = words.tensor_split([num_rows * WIDTH])
        found = []
        if num_rows:
            for rows in whole.view(num_rows, WIDTH).split(self._at_once):
                products = torch.mul(rows, self.weights, out=self._products[: len(rows)])
                found.append(products.sum(1))
        if len(rest):
            found.append((rest * self.weights[: len(rest)]).sum(0, keepdim=True))
        return found


def _checksums(tensors: Sequence[Tensor], fold: _Fold) -> Tensor:
    """int64 [len(tensors)], as the device counts: from -2**63."""
    sums: list[Tensor] = []
    num_rows: list[int] = []
    for tensor in tensors:
        rows = fold.sums(_words(tensor.detach()))
        sums += [*rows, fold.weights.new_full((1,), _num_bytes(tensor))]
        num_rows.append(sum(map(len, rows)))
    places = _places(num_rows, fold.weights.device)
    mixed = mix_signed(torch.cat(sums) + places * _SIGNED_STEP)
    return _sums_of_runs(mixed, [count + 1 for count in num_rows])


def _sums_of_runs(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """The sum of each run of so many values, int64 [len(lengths)]."""
    # The runs lie one after another, so a run's sum is the difference of the running sum at its end
    # and at its beginning: wrap-around makes that exact, however far it has run.
    ends = torch.tensor([*accumulate(lengths)], device=values.device)
    running = values.cumsum(0).index_select(0, ends - 1)
    return torch.diff(running, prepend=running.new_zeros(1))


def _places(num_rows: Sequence[int], device: torch.device) -> Tensor:
    """A row's place in its tensor, for all rows and the length of every tensor, int64."""
    numbers = torch.arange(max(1, *num_rows), device=device)
    length = torch.tensor([_LENGTH], device=device)
    pieces: list[Tensor] = []
    for count in num_rows:
        pieces += [numbers[:count], length]
    return torch.cat(pieces)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int32, the last word filled up with zeros; no copy where the tensor lies as it
    must."""
    data = _aligned(tensor).view(torch.uint8)
    num_left = len(data) % WORD_BYTES
    num_whole = len(data) - num_left
    words = data[:num_whole].view(torch.int32)
    if not num_left:
        return words
    last = data.new_zeros(WORD_BYTES)
    last[:num_left] = data[num_whole:]
    return torch.cat([words, last.view(torch.int32)])


def _aligned(tensor: Tensor) -> Tensor:
    """The values in one dimension, one behind the other, from a place where a word may begin."""
    flat = tensor.contiguous().reshape(-1)
    offset = flat.storage_offset() * flat.element_size()
    if flat.stride() != (1,) or offset % WORD_BYTES:
        flat = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device).copy_(flat)
    return flat
