"""The sum of a tensor's raw bits, taken where it lies: the cheapest number that tells a copy from
what it is a copy of.

The bytes are read as 64-bit words, and the words added with wrap-around, in any order. A change of
one word, whichever of its bits, is seen for certain; of several words, it is missed where their
differences cancel. Words that change places are not seen: that is what the ledger's checksums are
for (`parallel.trace.checksum`), which cost several times as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    words = _words_of(tensors)
    limit = _SMALL_WORDS.get(words[0].device.type, _SMALL_WORDS_ELSEWHERE)
    small: list[int] = []
    large: list[int] = []
    for number, of_one in enumerate(words):
        (small if of_one.numel() <= limit else large).append(number)
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
    (words,) = _words_of([values])
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


def _words_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each one's bytes as int64, the last word filled up with zeros. Those that lie as they must
    are not copied; all others are, in the same few calls, however many they are."""
    words: list[Tensor] = []
    odd: dict[int, Tensor] = {}
    for number, tensor in enumerate(tensors):
        flat = tensor.detach().contiguous().view(-1)
        if _is_of_words(flat):
            flat = flat.view(torch.int64)
        else:
            odd[number] = flat
        words.append(flat)
    if odd:
        for number, copy in zip(odd, _copied_to_words(list(odd.values())), strict=True):
            words[number] = copy
    return words


def _is_of_words(flat: Tensor) -> bool:
    return flat.nbytes % WORD_BYTES == 0 and not _begins_inside_a_word(flat)


def _copied_to_words(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    data = [flat.view(torch.uint8) for flat in tensors]
    sizes = [rounded_up(len(one), WORD_BYTES) for one in data]
    room = torch.zeros(sum(sizes), dtype=torch.uint8, device=data[0].device)
    places = room.split(sizes)
    torch._foreach_copy_([place[: len(one)] for place, one in zip(places, data, strict=True)], data)
    return (place.view(torch.int64) for place in places)
