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

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.ops.mixing import STEP, as_signed, mix_signed

WORD_BYTES = 4
WIDTH = 1024
"""Words in a row of the fold."""
ROWS_AT_ONCE = 256
"""Bounds the memory of the products (8 KiB a row) on the CPU: they stay in its cache."""
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
    with torch.no_grad():
        words = [_words(tensor.detach()) for tensor in tensors]
        sums = _sums_of_rows(words)
        sizes = torch.tensor([[_num_rows(w) for w in words], [_num_bytes(t) for t in tensors]])
        num_rows, num_bytes = sizes.to(sums.device)
        ends = num_rows.cumsum(0)
        mixed = mix_signed(sums + _places(num_rows, ends, len(sums)) * _SIGNED_STEP)
        lengths = mix_signed(num_bytes + as_signed(_LENGTH * STEP % (1 << 64)))
        signed: list[int] = (_sums_of_runs(mixed, ends) + lengths).tolist()
    return [value % (1 << 64) for value in signed]


def factors(device: torch.device) -> Tensor:
    """The odd factors of a row's words, int64 [WIDTH]."""
    return mix_signed(torch.arange(1, WIDTH + 1, device=device) * _SIGNED_STEP) | 1


def _sums_of_rows(words: Sequence[Tensor]) -> Tensor:
    """Weighted sums of the rows of all tensors' words in their order, int64; the last row of a
    tensor may be short."""
    if words[0].device.type == "cpu":
        return sums_near([of_one.numpy() for of_one in words])
    return Fold(words).sums()


def sums_near(words: Sequence[NDArray[np.int32]]) -> Tensor:
    """Weighted sums of rows on the CPU, by numpy, whose products of whole numbers of two widths
    take two thirds of the time of torch's."""
    weights = factors(torch.device("cpu")).numpy()
    products = np.empty((ROWS_AT_ONCE, WIDTH), np.int64)
    found: list[NDArray[np.int64]] = []
    for of_one in words:
        num_whole = len(of_one) // WIDTH * WIDTH
        whole, rest = of_one[:num_whole].reshape(-1, WIDTH), of_one[num_whole:]
        for begin in range(0, len(whole), ROWS_AT_ONCE):
            rows = whole[begin : begin + ROWS_AT_ONCE]
            of_rows = np.multiply(rows, weights, out=products[: len(rows)])
            found.append(np.add.reduce(of_rows, axis=1))
        if len(rest):
            found.append(np.add.reduce(rest * weights[: len(rest)], keepdims=True))
    return torch.from_numpy(np.concatenate(found)) if found else torch.zeros(0, dtype=torch.int64)


class Fold:
    """Weighted sums of rows on any device, with memory for the products of as many as are taken at
    once."""

    def __init__(self, words: Sequence[Tensor]) -> None:
        self._words = words
        device = words[0].device
        self._weights = factors(device)
        most = sum(map(_num_rows, words))
        self._at_once = min(max(1, most), ROWS_AT_ONCE_ELSEWHERE)
        self._products = torch.empty(self._at_once, WIDTH, dtype=torch.int64, device=device)

    def sums(self) -> Tensor:
        found: list[Tensor] = []
        for few in self._packs():
            found += self._of_one(few[0]) if len(few) == 1 else [self._of_pack(few)]
        return torch.cat(found) if found else self._weights.new_zeros(0)

    def _of_one(self, words: Tensor) -> Iterator[Tensor]:
        num_rows = len(words) // WIDTH
        whole, rest = words.tensor_split([num_rows * WIDTH])
        if num_rows:
            for rows in whole.view(num_rows, WIDTH).split(self._at_once):
                yield self._of_rows(rows)
        if len(rest):
            yield (rest * self._weights[: len(rest)]).sum(0, keepdim=True)

    def _of_pack(self, few: Sequence[Tensor]) -> Tensor:
        """Of several tensors, laid out with each one's last row filled up by zeros."""
        num_rows = sum(map(_num_rows, few))
        rows = few[0].new_zeros(num_rows * WIDTH)
        places = []
        begin = 0
        for words in few:
            places.append(rows[begin : begin + len(words)])
            begin += _num_rows(words) * WIDTH
        torch._foreach_copy_(places, list(few))
        return self._of_rows(rows.view(num_rows, WIDTH))

    def _of_rows(self, rows: Tensor) -> Tensor:
        products = torch.mul(rows, self._weights, out=self._products[: len(rows)])
        return products.sum(1)

    def _packs(self) -> Iterator[list[Tensor]]:
        """The tensors in their order: as many together as are taken at once, since on a device a
        call costs more than a small tensor's copy; a large one alone, where it lies."""
        few: list[Tensor] = []
        num_rows = 0
        for words in self._words:
            if few and num_rows + _num_rows(words) > self._at_once:
                yield few
                few, num_rows = [], 0
            few.append(words)
            num_rows += _num_rows(words)
        yield few


def _num_rows(words: Tensor) -> int:
    return -(-len(words) // WIDTH)


def _sums_of_runs(values: Tensor, ends: Tensor) -> Tensor:
    """The sum of each run of values up to these ends, int64 [len(ends)]."""
    # The runs lie one after another, so a run's sum is the difference of the running sum at its end
    # and at its beginning: wrap-around makes that exact, however far it has run.
    running = torch.cat([values.new_zeros(1), values.cumsum(0)]).index_select(0, ends)
    return torch.diff(running, prepend=running.new_zeros(1))


def _places(num_rows: Tensor, ends: Tensor, total: int) -> Tensor:
    """Every row's place in its tensor, int64 [total]."""
    begins = torch.repeat_interleave(ends - num_rows, num_rows, output_size=total)
    return torch.arange(total, device=ends.device) - begins


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int32, the last word filled up with zeros; no copy where the tensor lies as it
    must."""
    flat = _aligned(tensor)
    num_left = flat.nbytes % WORD_BYTES
    if not num_left:
        return flat.view(torch.int32)
    data = flat.view(torch.uint8)
    num_whole = len(data) - num_left
    last = data.new_zeros(WORD_BYTES)
    last[:num_left] = data[num_whole:]
    return torch.cat([data[:num_whole].view(torch.int32), last.view(torch.int32)])


def _aligned(tensor: Tensor) -> Tensor:
    """The values in one dimension, one behind the other, from a place where a word may begin."""
    flat = tensor.contiguous().reshape(-1)
    offset = flat.storage_offset() * flat.element_size()
    if flat.stride() != (1,) or offset % WORD_BYTES:
        flat = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device).copy_(flat)
    return flat
