"""Tensors that travel together: one flat buffer a bucket, cut by owner, every tensor aligned."""

from __future__ import annotations

import math

import pytest
import torch
from dougong.parallel.dense import buckets
from dougong.parallel.dense.buckets import ALIGNMENT, FlatTensors, in_pieces, make_buckets
from dougong.parallel.pieces import cut_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

Shapes = st.lists(st.lists(st.integers(1, 40), max_size=3), min_size=1, max_size=12)


@given(Shapes, st.integers(1, 4), st.integers(1, 20000))
@settings(max_examples=100, deadline=None)
def test_every_tensor_has_one_aligned_place_in_its_owners_part(shapes: list[list[int]], ranks: int, room: int) -> None:
    tensors = {f"t{i}": torch.empty(shape) for i, shape in enumerate(shapes)}
    owners = {name: (7 * i) % ranks for i, name in enumerate(tensors)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_BYTES", room)
        made = make_buckets(tensors, owners)
    assert sorted(n for b in made for n in b.shapes) == sorted(tensors)
    for bucket in made:
        ends = [0]
        for name, start in bucket.starts.items():
            part = bucket.parts[owners[name]]
            assert start % ALIGNMENT == 0 and start >= ends[-1], "apart"
            ends.append(start + math.prod(bucket.shapes[name]))
            assert part.start <= start and ends[-1] <= part.stop
        assert [p.start for p in bucket.parts.values()] == [0, *(p.stop for p in bucket.parts.values())][:-1]
        assert list(bucket.parts.values())[-1].stop == bucket.numel
    for bucket in made[:-1]:  # full, and no fuller than by its last tensor
        bytes_of = [4 * math.prod(shape) for shape in bucket.shapes.values()]
        assert sum(bytes_of) >= room > sum(bytes_of) - max(bytes_of)


def test_buckets_follow_the_order_of_tensors_and_have_one_dtype() -> None:
    half = {"b": torch.empty(3, dtype=torch.bfloat16), "d": torch.empty(3, dtype=torch.bfloat16)}
    tensors = {"a": torch.empty(3), **half, "c": torch.empty(3)}
    made = make_buckets(tensors, dict.fromkeys(tensors, 0))
    assert [(b.dtype, list(b.shapes)) for b in made] == [(torch.bfloat16, ["b", "d"]), (torch.float32, ["a", "c"])]
    assert make_buckets({}, {}) == []


def test_parameters_move_into_the_buffers_and_stay_themselves() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    flat = FlatTensors(parameters, {n: i % 2 for i, n in enumerate(parameters)})
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name] and torch.equal(parameter, before[name]), name
    (bucket,) = flat.buckets
    assert list(bucket.shapes) == ["1.weight", "0.weight", "1.bias", "0.bias"], "backwards, by owner"
    flat.buffers[0].fill_(7)
    assert all((p == 7).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_tensors_and_their_gradients_begin_at_multiples_of_512_bytes_on_every_plan(
    dtype: torch.dtype, ranks: int
) -> None:
    shapes = [(2880, 3), (7,), (201, 5), (1,), (2880,), (64, 2)]
    tensors = {f"t{i}": torch.empty(shape, dtype=dtype) for i, shape in enumerate(shapes)}
    for bucket in make_buckets(tensors, {name: i % ranks for i, name in enumerate(tensors)}):
        for start in (*bucket.starts.values(), *(part.start for part in bucket.parts.values())):
            assert start * dtype.itemsize % 512 == 0 and start * 4 % 512 == 0


def test_a_tensor_that_is_owned_in_pieces_has_a_bucket_for_itself() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.zeros(10, 100), "c": torch.zeros(7)}
    owners = {"a": 1, "b[0:512]": 2, "b[512:768]": 0, "b[768:1000]": 0, "c": 1}
    flat = FlatTensors(tensors, owners)
    alone = next(bucket for bucket in flat.buckets if "b" in bucket.shapes)
    assert [sorted(bucket.shapes) for bucket in flat.buckets] == [["c"], ["b"], ["a"]]
    assert dict(alone.parts) == {2: slice(0, 512), 0: slice(512, 1024)} and alone.numel == 1024
    assert list(alone.owned) == ["b[0:512]", "b[512:768]", "b[768:1000]"]
    buffer = flat.buffers[flat.buckets.index(alone)]
    buffer.copy_(torch.arange(1024.0))
    assert torch.equal(tensors["b"].view(-1), torch.arange(1000.0)), "as it lies in memory"
    assert torch.equal(alone.view(buffer, "b[512:768]"), torch.arange(512.0, 768.0))
    own = alone.owned_in(alone.parts[0], buffer[alone.parts[0]])
    assert {name: (len(values), float(values[0])) for name, values in own.items()} == {
        "b[512:768]": (256, 512.0),
        "b[768:1000]": (232, 768.0),
    }
    whole = dict(in_pieces(tensors, cut_tensors(owners)))
    assert list(whole) == ["a", *alone.owned, "c"] and whole["b[768:1000]"].data_ptr() == own["b[768:1000]"].data_ptr()
