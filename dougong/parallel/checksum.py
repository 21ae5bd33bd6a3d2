"""A 64-bit checksum of a tensor's raw bits, taken where the tensor lies, without floating-point arithmetic.

The bytes are read as 64-bit words and folded into rows of a fixed prime length. Two passes of plain integer sums
(wrap-around, so their order is of no matter) give a sum per row and a sum per column; each is scrambled with its place
by a bijection, and the scrambled values are added. One changed word changes its row's sum for certain; words that
change places change the sums of their columns, since a row of the fold is as good as never a row of the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD_BYTES = 8
WIDTHS = (61, 251, 1021, 4093)
"""Words in a row of the fold, by the size of the tensor: primes, unlike the widths that tensors have."""
TENSORS_AT_ONCE = 256

_COLUMNS = 1 << 40  # places of columns lie behind those of rows
_LENGTH = 1 << 41  # the tensor's length in bytes counts as one more sum, in a place of its own
_STEP = -0x61C8864680B583EB  # 0x9e3779b97f4a7c15 as a signed number, and so are the factors
_FACTORS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


def checksum(tensor: Tensor) -> int:
    """The checksum of one tensor of any dtype and shape, from 0 to 2**64 - 1. Equal bits in equal order give equal
    checksums on every device and for every shape."""
    return checksums([tensor])[0]


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """The checksums of several tensors of one device. Waits for the device once."""
    groups = [tensors[i : i + TENSORS_AT_ONCE] for i in range(0, len(tensors), TENSORS_AT_ONCE)]
    if not groups:
        return []
    with torch.no_grad():
        found: list[int] = torch.cat([_checksums(group) for group in groups]).tolist()
    return [value % (1 << 64) for value in found]


def _checksums(tensors: Sequence[Tensor]) -> Tensor:
    """int64 [len(tensors)], as the device counts: from -2**63."""
    sums: list[Tensor] = []
    places: list[tuple[int, int]] = []
    ends: list[int] = []
    device = tensors[0].device
    for tensor in tensors:
        words = _words(tensor.detach())
        rows, columns = _fold(words)
        length = torch.full((1,), tensor.numel() * tensor.element_size(), device=device)
        sums += [rows, columns, length]
        places += [(0, len(rows)), (_COLUMNS, len(columns)), (_LENGTH, 1)]
        ends.append((ends[-1] if ends else 0) + len(rows) + len(columns) + 1)
    numbers = torch.arange(max(count for _, count in places), device=device)
    place = torch.cat([numbers[:count] + start for start, count in places])
    running = _scramble(torch.cat(sums) + place * _STEP).cumsum(0)
    upto = running.index_select(0, torch.tensor(ends, device=device) - 1)
    return torch.diff(upto, prepend=upto.new_zeros(1))


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int64, the last word filled up with zeros; no copy where the tensor lies as it must."""
    flat = tensor.contiguous().reshape(-1)
    if flat.storage_offset() * flat.element_size() % WORD_BYTES:
        flat = flat.clone()
    data = flat.view(torch.uint8)
    tail = len(data) % WORD_BYTES
    whole = data[: len(data) - tail].view(torch.int64)
    if not tail:
        return whole
    last = data.new_zeros(WORD_BYTES)
    last[:tail] = data[len(data) - tail :]
    return torch.cat([whole, last.view(torch.int64)])


def _fold(words: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the rows and of the columns."""
    width = next((w for w in WIDTHS if 4 * w * w >= len(words)), WIDTHS[-1])
    num_rows = len(words) // width
    rest = words[num_rows * width :]
    if not num_rows:
        return rest.sum(0, keepdim=True), rest.clone()
    body = words[: num_rows * width].view(num_rows, width)
    columns = body.sum(0)
    columns[: len(rest)] += rest
    return torch.cat([body.sum(1), rest.sum(0, keepdim=True)]), columns


def _scramble(values: Tensor) -> Tensor:
    """A bijection of 64 bits whose every output bit depends on every input bit: the finaliser of splitmix64 (Steele,
    Lea and Flood 2014)."""
    values = (values ^ _shifted(values, 30)) * _FACTORS[0]
    values = (values ^ _shifted(values, 27)) * _FACTORS[1]
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """To the right; what comes in from the left is zero."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
