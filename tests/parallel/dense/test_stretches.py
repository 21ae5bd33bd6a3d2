"""Buckets in pieces, and their order."""

from __future__ import annotations

from dougong.parallel.dense.buckets import BUCKET_BYTES, TensorForm, make_buckets
from dougong.parallel.dense.stretches import (
    PIECES,
    in_order,
    scratch_numel,
    side_by_side,
    size_of,
    stretches_of,
)


def test_a_large_bucket_is_cut_and_all_of_it_is_there_once() -> None:
    forms = {"small": TensorForm("torch.float32", (10, 10)), "large": TensorForm("torch.float32", (40 << 20,))}
    buckets = make_buckets(forms, {"small": 0, "large": 1})
    stretches = list(stretches_of(buckets))
    assert sum(size_of(one.parts) for one in stretches) == sum(bucket.numel for bucket in buckets)
    assert max(size_of(one.parts) for one in stretches) == BUCKET_BYTES // PIECES // 4
    assert scratch_numel(stretches, ()) == 0


def test_each_stretch_is_a_round_behind_the_one_before() -> None:
    assert list(in_order(3, 2)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert not list(in_order(3, 0))


def test_places_that_lie_side_by_side_are_one_message() -> None:
    places = {2: slice(0, 5), 0: slice(5, 6), 1: slice(6, 9), 3: slice(9, 9), 4: slice(9, 12)}
    assert side_by_side(places, [2, 0, 3, 4]) == [slice(0, 6), slice(9, 12)]
    assert side_by_side(places, list(places)) == [slice(0, 12)]
    assert side_by_side(places, []) == []
