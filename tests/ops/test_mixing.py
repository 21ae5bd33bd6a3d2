"""The mixing function against the published outputs of splitmix64, in both forms."""

from __future__ import annotations

import numpy as np
import torch
from dougong.ops.mixing import STEP, as_signed, mix, mix_signed

# The generator's first outputs from seed 0, as published with it.
PUBLISHED = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def counters(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(STEP)


def test_it_gives_the_published_outputs() -> None:
    assert mix(counters(3)).tolist() == PUBLISHED


def test_tensors_get_the_same_bits() -> None:
    signed = torch.from_numpy(counters(10_000).view(np.int64))
    assert np.array_equal(mix_signed(signed).numpy().view(np.uint64), mix(counters(10_000)))


def test_a_signed_number_has_the_same_bits() -> None:
    for word in (0, 1, 2**63 - 1, 2**63, STEP, 2**64 - 1):
        assert as_signed(word) % 2**64 == word
        assert -(2**63) <= as_signed(word) < 2**63


def test_no_two_words_of_a_sample_meet() -> None:
    assert len(np.unique(mix(np.arange(1 << 16, dtype=np.uint64)))) == 1 << 16
