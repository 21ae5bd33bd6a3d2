"""Ids that are parts of wider ones are known by a sample; others are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dougong.data.token_widths import refuse_other_width
from dougong.errors import DataError

FILE = Path("ids.bin")


def ids_below(vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab_size, 4096)


@pytest.mark.parametrize("vocab_size", [300, 32_000, 151_936])
@pytest.mark.parametrize(
    ("stored", "read", "message"),
    [
        ("<u4", "<u2", 'of every 2 ids the last .* 32 bits; .*"uint32"'),
        ("<i8", "<u2", 'of every 4 ids the last .* 64 bits; .*"int64"'),
        ("<i8", "<i4", 'of every 2 ids the last .* 64 bits; .*"int64"'),
        ("<u4", "<u1", 'of every 4 ids the last .* 32 bits; .*"uint32"'),
        (">u4", "<u2", "of every 2 ids the first .* with the highest byte first"),
        (">i8", "<u4", "of every 2 ids the first .* with the highest byte first"),
    ],
)
def test_parts_of_wider_ids(vocab_size: int, stored: str, read: str, message: str) -> None:
    seen = ids_below(vocab_size).astype(stored).view(read)
    for known in (vocab_size, None):
        with pytest.raises(DataError, match=f"^ids.bin: read as .*{message}"):
            refuse_other_width(FILE, seen, known)


@pytest.mark.parametrize(
    ("ids", "vocab_size"),
    [
        (ids_below(60_000).astype("<u2"), 60_000),
        (ids_below(151_936).astype("<u4"), 151_936),
        (ids_below(3).astype("<u2"), 3),
        (np.zeros(4096, "<u2"), 256),
        (np.frombuffer(b"plain words in bytes, and more of them " * 90, "<u1"), 32_000),
        (np.frombuffer(b"plain words in bytes, and more of them " * 90, "<u1"), 256),
        (np.array([1, 2, 3, 4] * 50, "<u2"), 50),
        (np.array([5, 0, 6, 0], "<u2"), 50),
    ],
)
def test_ids_that_are_what_they_say(ids: np.ndarray, vocab_size: int) -> None:
    refuse_other_width(FILE, ids, vocab_size)
    refuse_other_width(FILE, ids, None)
