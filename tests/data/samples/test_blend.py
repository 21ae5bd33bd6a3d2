"""Samples are shared out among sources as their weights say, by the number of the sample alone."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from dougong.data.samples.blend import Blend, whole_weights
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = st.lists(st.integers(1, 1 << 24), min_size=1, max_size=12)


@given(WEIGHTS)
def test_at_any_sample_each_source_is_within_two_of_its_share(weights: list[int]) -> None:
    sources, _ = Blend(weights).choose(np.arange(2000))
    for source, weight in enumerate(weights):
        had = np.cumsum(sources == source)
        assert np.abs(had - np.arange(1, 2001) * (weight / sum(weights))).max() < 2


@given(WEIGHTS)
def test_samples_of_a_source_are_numbered_one_after_the_other(weights: list[int]) -> None:
    blend = Blend(weights)
    sources, numbers = blend.choose(np.arange(500))
    for source in range(len(weights)):
        mine = numbers[sources == source].tolist()
        assert mine == list(range(len(mine)))
    assert blend.counts(500) == tuple(int((sources == source).sum()) for source in range(len(weights)))


@given(WEIGHTS, st.lists(st.integers(0, 10**13), min_size=1, max_size=20))
def test_any_order_of_asking_gives_the_same(weights: list[int], samples: list[int]) -> None:
    together = Blend(weights).choose(np.array(samples, dtype=np.int64))
    for place, sample in enumerate(samples):
        source, number = Blend(weights).choose(np.array([sample], dtype=np.int64))
        assert (int(source[0]), int(number[0])) == (int(together[0][place]), int(together[1][place]))
        assert Blend(weights).counts(sample)[int(source[0])] == int(number[0])


def test_whole_periods_have_the_weights_exactly() -> None:
    blend = Blend((3, 1, 2))
    for periods in (1, 7, 10**11):
        assert blend.counts(6 * periods) == (3 * periods, periods, 2 * periods)
    assert blend.shares == pytest.approx((1 / 2, 1 / 6, 1 / 3))


def test_one_source_has_all() -> None:
    sources, numbers = Blend((5,)).choose(np.arange(9))
    assert sources.tolist() == [0] * 9 and numbers.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        (("3", "1"), (3, 1)),
        (("0.7", "0.2", "0.1"), (7, 2, 1)),
        (("1e-3", "0.5"), (1, 500)),
        (("100", "50"), (2, 1)),
        (("4",), (1,)),
    ],
)
def test_weights_are_taken_at_their_word(weights: tuple[str, ...], whole: tuple[int, ...]) -> None:
    assert whole_weights([Fraction(weight) for weight in weights]) == whole


def test_weights_of_many_digits_are_rounded_to_what_can_be_computed_with() -> None:
    asked = [Fraction("0.3333333333333333"), Fraction("0.6666666666666667"), Fraction("1e-12")]
    whole = whole_weights(asked)
    assert sum(whole) <= (1 << 30) + 3 and whole[2] == 1
    for weight, share in zip(whole, asked, strict=True):
        assert abs(weight / sum(whole) - float(share)) < 2e-9
    blend = Blend(whole)
    _, numbers = blend.choose(np.array([10**15]))
    assert 0 <= int(numbers[0]) <= 10**15 and sum(blend.counts(10**15)) == 10**15
