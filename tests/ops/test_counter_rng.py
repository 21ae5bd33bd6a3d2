"""Random streams: known bits, independence of how they are read, and the shape of what comes out."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from dougong.ops import counter_rng as dg
from hypothesis import given
from hypothesis import strategies as st


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_known_words() -> None:
    words = dg.stream(1234, "dropout", 7, 0).words(0, 3)
    assert [hex(word) for word in words.tolist()] == KNOWN_WORDS


def test_known_values() -> None:
    assert digest(dg.normal((100_000,), 1234, "model.norm.weight")) == KNOWN_NORMAL
    assert digest(dg.uniform((100_000,), 1234, "model.norm.weight", -0.5, 0.5)) == KNOWN_UNIFORM
    assert dg.Permutation(1000, 1234, "epoch", 0)(np.arange(8)).tolist() == KNOWN_PERMUTATION
    assert dg.torch_seed(1234, 3, 0, "layer") == KNOWN_SEED


def test_normal_is_the_written_formula() -> None:
    words = dg.stream(5, "normal", "w").words(0, 20).astype("<u8")
    sums = words.view("<u2").reshape(10, 8).astype(np.int64).sum(axis=1)
    expected = ((sums - 262140) * (0.02 / (8 * (65536**2 - 1) / 12) ** 0.5)).astype(np.float32)
    assert np.array_equal(dg.normal((10,), 5, "w", std=0.02), expected)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_chunk_size_changes_no_bit(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dg.normal((41, 73), 3, "w"), dg.uniform((41, 73), 3, "w")
    monkeypatch.setattr(dg, "CHUNK", chunk)
    again = dg.normal((41, 73), 3, "w"), dg.uniform((41, 73), 3, "w")
    assert np.array_equal(whole[0], again[0]) and np.array_equal(whole[1], again[1])


@given(start=st.integers(0, 10**12), count=st.integers(0, 50), skip=st.integers(0, 9))
def test_words_can_be_read_from_any_place(start: int, count: int, skip: int) -> None:
    source = dg.stream(9, "place")
    assert np.array_equal(source.words(start, skip + count)[skip:], source.words(start + skip, count))


def test_moments_of_normal() -> None:
    values = dg.normal((1000, 1000), 1, "w").astype(np.float64)
    assert abs(values.mean()) < 5e-3
    assert abs(values.var() - 1) < 5e-3
    assert abs((values**3).mean()) < 2e-2
    assert abs((values**4).mean() - 2.85) < 3e-2
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 5e-3


def test_uniform_stays_inside() -> None:
    values = dg.uniform((300_000,), 1, "w", -2.0, 6.0)
    assert values.min() >= -2.0 and values.max() <= 6.0
    assert abs(values.mean() - 2.0) < 2e-2
    assert np.histogram(values, bins=8)[0].min() > 36_000


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert dg.normal(shape, 1, "w").shape == shape
    assert dg.uniform(shape, 1, "w").dtype == np.float32


def test_a_key_is_not_another_key() -> None:
    keys: list[tuple[int | str, ...]] = [(), (1,), ("1",), (1, 2), (12,), ("a", "b"), ("ab",), ("a,b",), ('a","b',)]
    seeds = {dg.torch_seed(seed, *key) for seed in (0, 1) for key in keys}
    assert len(seeds) == 2 * len(keys)
    assert dg.stream(0, "normal", "w") != dg.stream(0, "uniform", "w")


def test_a_key_of_floats_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="int and str"):
        dg.stream(0, 1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 4097])
def test_permutation_is_a_bijection(size: int) -> None:
    there = dg.Permutation(size, 1, "epoch", 3)(np.arange(size))
    assert sorted(there.tolist()) == list(range(size))


@given(size=st.integers(1, 2**62), index=st.integers(0, 2**62))
def test_permutation_of_huge_ranges_stays_inside(size: int, index: int) -> None:
    there = dg.Permutation(size, 1, "big")(np.array([index % size]))
    assert 0 <= there[0] < size


def test_permutation_mixes_well() -> None:
    size = 10_000
    index = np.arange(size)
    there = dg.Permutation(size, 1, "epoch", 0)(index)
    assert abs(np.corrcoef(index, there)[0, 1]) < 0.05
    assert abs(np.corrcoef(there[:-1], there[1:])[0, 1]) < 0.05
    assert np.sum(there == index) < 10
    other = dg.Permutation(size, 1, "epoch", 1)(index)
    assert np.sum(there == other) < 10


def test_permutation_refuses_an_index_outside() -> None:
    with pytest.raises(AssertionError, match="range"):
        dg.Permutation(5, 1)(np.array([5]))


@pytest.mark.parametrize("disabled", ["", "AVX2 AVX512F AVX512_SKX X86_V3 X86_V4"])
def test_bits_do_not_depend_on_vector_units(disabled: str) -> None:
    code = "from tests.ops.test_counter_rng import *; print(digest(dg.normal((10**5,), 1234, 'model.norm.weight')))"
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == KNOWN_NORMAL, done.stderr


KNOWN_WORDS = ["0x2cbdab3be56c8669", "0xdab17ced6eafc5a", "0xdf6dfc0d97a1dc4e"]
KNOWN_NORMAL = "b19a06add96ba209"
KNOWN_UNIFORM = "bc4f6f0d5a373870"
KNOWN_PERMUTATION = [929, 945, 552, 871, 17, 660, 28, 129]
KNOWN_SEED = 7507096878866562243
