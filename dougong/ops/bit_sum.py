"""The sum of a tensor's raw bits, taken where it lies: the cheapest number that tells a copy from
what it is a copy of.

The bytes are read as 64-bit words, and the words added with wrap-around, in any order. A change of
one word, whichever of its bits, is seen for certain; of several words, it is missed where their
differences cancel. Words that change places are not seen: that is what the ledger's checksums are
for (`parallel.trace.checksum`), which cost several times as much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.ops.sizes import rounded_up

WORD_BYTES = 8
WRAP = 1 << 64
_FEW_SHARES = 8
_SMALL_WORDS = {"cpu": 1 << 8}
_SMALL_WORDS_ELSEWHERE = 1 << 13
"""Of tensors up to that size the calls cost more than the bytes: they are taken together."""


@torch.no_grad()
def bit_sums(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of each tensor's bits, int64 [len(tensors)], on their device, which is not waited
    for. All are of one device; of any dtype and shape."""
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    words = [_words(tensor) for tensor in tensors]
    limit = _SMALL_WORDS.get(words[0].device.type, _SMALL_WORDS_ELSEWHERE)
    small = [number for number, of_one in enumerate(words) if len(of_one) <= limit]
    large = [number for number, of_one in enumerate(words) if len(of_one) > limit]
    if not large:
        return _sums_of_small(words)
    sums = torch.stack([words[number].sum(0) for number in large])
    if not small:
        return sums
    found = torch.cat([sums, _sums_of_small([words[number] for number in small])])
    places = torch.tensor([*large, *small]).argsort().to(found.device)
    return found.index_select(0, places)


@torch.no_grad()
def sums_of_shares(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum of the bits of each share of the first dimension, int64 [len(sizes)]. `values`:
    contiguous, [sum(sizes), ...]."""
    shares = values.detach().split(list(sizes))
    row_bytes = values.element_size()
    for length in values.shape[1:]:
        row_bytes *= length
    if len(shares) <= _FEW_SHARES or row_bytes % WORD_BYTES or _begins_inside_a_word(values):
        return bit_sums(shares)
    words = _words(values)
    rows = words.view(len(values), row_bytes // WORD_BYTES).sum(1)
    return _sums_of_runs(rows, list(sizes))


def total(sums: Tensor) -> int:
    """All of them added up, 0 to 2**64 - 1. Waits for the device."""
    return int(sums.sum(0)) % WRAP if len(sums) else 0


def _sums_of_small(words: Sequence[Tensor]) -> Tensor:
    return _sums_of_runs(torch.cat(list(words)), [len(of_one) for of_one in words])


def _sums_of_runs(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """The sum of each run of so many values."""
    # The difference of the running sum at a run's end and at its beginning: wrap-around makes that
    # exact, however far it has run.
    ends = torch.tensor(lengths).cumsum(0).to(values.device)
    running = torch.cat([values.new_zeros(1), values.cumsum(0)]).index_select(0, ends)
    return torch.diff(running, prepend=running.new_zeros(1))


def _begins_inside_a_word(tensor: Tensor) -> bool:
    return tensor.storage_offset() * tensor.element_size() % WORD_BYTES != 0


def _words(tensor: Tensor) -> Tensor:
    """The bytes as int64, the last word filled up with zeros; no copy where the tensor lies as it
    must."""
    flat = tensor.detach().contiguous().reshape(-1)
    num_bytes = flat.numel() * flat.element_size()
    if num_bytes % WORD_BYTES == 0 and not _begins_inside_a_word(flat):
        return flat.view(torch.int64)
    data = torch.zeros(rounded_up(num_bytes, WORD_BYTES), dtype=torch.uint8, device=flat.device)
    data[:num_bytes] = flat.view(torch.uint8)
    return data.view(torch.int64)
