"""Random numbers that depend on the job alone: not on worker, thread count or kind of CPU.

Every use of chance has its own counter-based stream (Philox 4x64-10, Salmon et al. 2011), keyed by
the job's seed and a list of names and numbers: purpose, step, lane, micro-batch, layer. No stream
has a state to be saved or handed on. Only integers and single IEEE roundings are used: vector
units, libm and the version of a library cannot change a bit. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dougong.ops.mixing import mix

CHUNK = 1 << 15
"""Values made at a time: about 1 MiB of scratch, so the work stays in cache. No bit depends on it
(tested)."""
# Variance of a sum of eight independent integers that are uniform on 0 .. 65535.
_EIGHT_VARIANCE = 8 * (65536**2 - 1) / 12
_EIGHT_MEAN = 8 * 65535 // 2
_LOW_HALVES = np.uint64(0x0000FFFF0000FFFF)
_ROUNDS = 8


def _digest(seed: int, key: Sequence[int | str], size: int) -> bytes:
    # JSON of a flat list keeps 1 and "1", and ("a", "b") and ("ab",), apart.
    assert all(type(part) in (int, str) for part in (seed, *key)), (
        f"a key is made of int and str, not {key!r}"
    )
    text = json.dumps([seed, *key], separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size, person=b"dougong").digest()


@dataclass(frozen=True)
class Stream:
    """One stream of 64-bit words, read from any place in any order."""

    key: int

    def words(self, start: int, count: int) -> npt.NDArray[np.uint64]:
        """Words `start .. start + count` of the stream, uint64 [count]."""
        generator = np.random.Philox(key=self.key)
        generator.advance(start // 4)  # one counter value gives four words
        words = generator.random_raw(start % 4 + count)
        return np.asarray(words, dtype=np.uint64)[start % 4 :]


def stream(seed: int, *key: int | str) -> Stream:
    """The stream that belongs to `key`; another seed or key gives an unrelated one."""
    return Stream(int.from_bytes(_digest(seed, key, 16), "little"))


def torch_seed(seed: int, *key: int | str) -> int:
    """A seed in 0 .. 2**63 - 1 for `torch.manual_seed`: a segment's dropout depends on `key`
    alone."""
    return int.from_bytes(_digest(seed, ("torch", *key), 8), "little") >> 1


def normal(shape: Sequence[int], seed: int, name: str, std: float = 1.0) -> npt.NDArray[np.float32]:
    """Bell-shaped values for the tensor `name`: float32 [*shape], mean 0, standard deviation `std`.

    Each value is a centred sum of eight 16-bit integers (value i from words 2i and 2i+1), times one
    float64, rounded once to float32: no logarithm or cosine whose last bit depends on the machine.
    The sum of eight differs from a true normal distribution in its tails only: |x| <= 4.9 std,
    kurtosis 2.85 instead of 3.
    """
    scale = std / _EIGHT_VARIANCE**0.5

    def values(source: Stream, start: int, count: int) -> npt.NDArray[np.float64]:
        sums = _eights(source, start, count)
        sums *= scale
        return sums

    return _fill(shape, stream(seed, "normal", name), values)


def uniform(
    shape: Sequence[int], seed: int, name: str, low: float = 0.0, high: float = 1.0
) -> npt.NDArray[np.float32]:
    """Values for the tensor `name`: float32 [*shape] on the interval from `low` to `high`.

    Value i is word i's upper 24 bits (exact in float32) scaled and shifted in float64, rounded once
    to float32; `high` itself appears only if that rounding reaches it.
    """
    scale = (high - low) / (1 << 24)

    def values(source: Stream, start: int, count: int) -> npt.NDArray[np.float64]:
        return (source.words(start, count) >> np.uint64(40)).astype(np.float64) * scale + low

    return _fill(shape, stream(seed, "uniform", name), values)


def _eights(source: Stream, start: int, count: int) -> npt.NDArray[np.float64]:
    """Centred sums of eight 16-bit integers, exact in float64 [count]."""
    words = source.words(2 * start, 2 * count)
    # Two 32-bit fields of each word gather its four 16-bit quarters; no field can overflow, as
    # 8 * 65535 < 2**32.
    halves = words & _LOW_HALVES
    words >>= np.uint64(16)
    words &= _LOW_HALVES
    halves += words
    pairs = halves[0::2] + halves[1::2]
    sums = (pairs & np.uint64(0xFFFFFFFF)) + (pairs >> np.uint64(32))
    return sums.astype(np.int64).astype(np.float64) - _EIGHT_MEAN


def _fill(
    shape: Sequence[int],
    source: Stream,
    values: Callable[[Stream, int, int], npt.NDArray[np.float64]],
) -> npt.NDArray[np.float32]:
    result = np.empty(int(np.prod(shape, dtype=np.int64)), dtype=np.float32)
    for start in range(0, result.size, CHUNK):
        part = result[start : start + CHUNK]
        part[:] = values(source, start, part.size)
    return result.reshape(tuple(shape))


class Permutation:
    """A keyed pseudo-random permutation of 0 .. size-1, never written out: `size` may be billions.

    A balanced Feistel network (Luby and Rackoff 1988) of eight rounds over the next even number of
    bits; a result outside the range is sent through again until it falls inside (cycle walking,
    Black and Rogaway 2002, section 3), which keeps it a bijection. Fewer than four passes are
    expected.
    """

    def __init__(self, size: int, seed: int, *key: int | str) -> None:
        assert size > 0, f"a permutation of {size} things"
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = stream(seed, "permutation", *key).words(0, _ROUNDS)

    def __call__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where each of `index` (int64, any shape, each in 0 .. size-1) goes; int64, same shape."""
        assert index.size == 0 or (index.min() >= 0 and index.max() < self.size), (
            "index out of the permutation's range"
        )
        value = self._pass(index.astype(np.uint64).ravel())
        outside = np.flatnonzero(value >= self.size)
        while outside.size:
            value[outside] = self._pass(value[outside])
            outside = outside[value[outside] >= self.size]
        return value.astype(np.int64).reshape(index.shape)

    def _pass(self, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        # Each round is a bijection, whatever `mix` is: `right` is kept, so the exclusive or with
        # what follows from it can be undone.
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right + key) & self._mask)
        return (left << self._half) | right
