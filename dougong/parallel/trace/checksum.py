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

import torch
from torch import Tensor

WORD_BYTES = 4
WIDTH = 1024
"""Words in a row of the fold."""
TENSORS_AT_ONCE = 256
ROWS_AT_ONCE = {"cpu": 256}
"""Bounds the memory of the products (8 KiB a row); on the CPU they then stay in its cache."""
ROWS_AT_ONCE_ELSEWHERE = 1 << 14

_LENGTH = 1 << 41  # the tensor's length in bytes counts as one more row, in a place of its own
_STEP = -0x61C8864680B583EB  # 0x9e3779b97f4a7c15 as a signed number, and so are these
_MIX = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


def checksum(tensor: Tensor) -> int:
    """The checksum of one tensor of any dtype and shape, from 0 to 2**64 - 1. Equal bits in equal
    order give equal checksums on every device and for every shape."""
    return checksums([tensor])[0]


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """The checksums of several tensors of one device. Waits for the device once."""
    groups = [tensors[i : i + TENSORS_AT_ONCE] for i in range(0, len(tensors), TENSORS_AT_ONCE)]
    if not groups:
        return []
    with torch.no_grad():
        fold = _Fold(tensors[0].device, max(t.numel() * t.element_size() for t in tensors))
        found: list[int] = torch.cat([_checksums(group, fold) for group in groups]).tolist()
    return [value % (1 << 64) for value in found]


def factors(device: torch.device) -> Tensor:
    """The odd factors of a row's words, int64 [WIDTH]."""
    return _scramble(torch.arange(1, WIDTH + 1, device=device) * _STEP) | 1


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
        body, rest = words[: num_rows * WIDTH].view(num_rows, WIDTH), words[num_rows * WIDTH :]
        parts = body.split(self._at_once) if num_rows else ()
        found = [
            torch.mul(part, self.weights, out=self._products[: len(part)]).sum(1) for part in parts
        ]
        return (
            [*found, (rest * self.weights[: len(rest)]).sum(0, keepdim=True)]
            if len(rest)
            else found
        )


def _checksums(tensors: Sequence[Tensor], fold: _Fold) -> Tensor:
    """int64 [len(tensors)], as the device counts: from -2**63."""
    weights = fold.weights
    sums: list[Tensor] = []
    places: list[tuple[int, int]] = []
    ends: list[int] = []
    for tensor in tensors:
        rows = fold.sums(_words(tensor.detach()))
        sums += [*rows, weights.new_full((1,), tensor.numel() * tensor.element_size())]
        count = sum(len(r) for r in rows)
        places += [(0, count), (_LENGTH, 1)]
        ends.append((ends[-1] if ends else 0) + count + 1)
    numbers = torch.arange(max(count for _, count in places), device=weights.device)
    place = torch.cat([numbers[:count] + start for start, count in places])
    running = _scramble(torch.cat(sums) + place * _STEP).cumsum(0)
    upto = running.index_select(0, torch.tensor(ends, device=weights.device) - 1)
    return torch.diff(upto, prepend=upto.new_zeros(1))


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int32, the last word filled up with zeros; no copy where the tensor lies as it
    must."""
    flat = tensor.contiguous().reshape(-1)
    if flat.stride() != (1,) or flat.storage_offset() * flat.element_size() % WORD_BYTES:
        flat = torch.empty(flat.shape, dtype=flat.dtype, device=flat.device).copy_(flat)
    data = flat.view(torch.uint8)
    tail = len(data) % WORD_BYTES
    whole = data[: len(data) - tail].view(torch.int32)
    if not tail:
        return whole
    last = data.new_zeros(WORD_BYTES)
    last[:tail] = data[len(data) - tail :]
    return torch.cat([whole, last.view(torch.int32)])


def _scramble(values: Tensor) -> Tensor:
    """A bijection of 64 bits whose every output bit depends on every input bit: the finaliser of
    splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ _shifted(values, 30)) * _MIX[0]
    values = (values ^ _shifted(values, 27)) * _MIX[1]
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """To the right; what comes in from the left is zero."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
