"""The layout of a safetensors file against the safetensors library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dougong.checkpoint.parameters import TORCH_DTYPES
from dougong.checkpoint.tensorfile import (
    FiniteCount,
    TensorShape,
    as_array,
    not_finite_words,
    num_not_finite,
    plan_layout,
)
from dougong.errors import CheckpointError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
tensors = st.dictionaries(
    names.filter(lambda n: n != "__metadata__"),
    st.tuples(st.sampled_from(["F32", "I64", "BF16", "U8", "BOOL"]), shapes),
    max_size=8,
).map(lambda d: [TensorShape(name, dtype, shape) for name, (dtype, shape) in d.items()])


@settings(max_examples=150, deadline=None)
@given(tensors=tensors, seed=st.integers(0, 1000))
def test_a_planned_file_is_read_by_the_library(tensors: list[TensorShape], seed: int) -> None:
    layout = plan_layout(tensors)
    random = np.random.default_rng(seed)
    data = bytearray(layout.header.ljust(layout.num_bytes, b"\0"))
    written = {}
    for t in tensors:
        values = random.integers(0, 2, t.num_bytes, dtype=np.uint8).tobytes()
        offset = layout.offsets[t.name]
        data[offset : offset + t.num_bytes] = values
        written[t.name] = values
    read = load(bytes(data))
    assert read.keys() == written.keys()
    for t in tensors:
        assert read[t.name].dtype == TORCH_DTYPES[t.dtype]
        assert tuple(read[t.name].shape) == t.shape
        assert read[t.name].reshape(-1).view(torch.uint8).numpy().tobytes() == written[t.name]


@settings(max_examples=100, deadline=None)
@given(tensors=tensors)
def test_a_layout_covers_the_file_once_and_ignores_order(tensors: list[TensorShape]) -> None:
    layout = plan_layout(tensors)
    end = len(layout.header)
    assert end % 8 == 0
    for name in layout.tensors:
        assert layout.offsets[name] == end
        end += layout.tensors[name].num_bytes
    assert end == layout.num_bytes
    assert plan_layout(reversed(tensors)) == layout


def test_one_name_twice_is_refused() -> None:
    with pytest.raises(CheckpointError, match="given twice"):
        plan_layout([TensorShape("a", "F32", (1,)), TensorShape("a", "F32", (2,))])


def test_bfloat16_bytes_become_their_float32_values() -> None:
    values = torch.tensor([1.5, -0.0, float("inf"), 3e-39]).bfloat16()
    array = as_array(values.view(torch.uint8).numpy().tobytes(), "BF16")
    assert array.tobytes() == values.float().numpy().tobytes()


def data_of(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_it_counts_what_torch_counts(dtype: str) -> None:
    """Over all bit patterns of 16 bits; of wider formats, random ones and the borders."""
    if dtype in ("F16", "BF16"):
        values = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16)).view(TORCH_DTYPES[dtype])
    else:
        limits = torch.finfo(TORCH_DTYPES[dtype])
        inf = float("inf")
        borders = [limits.max, -limits.max, limits.tiny, 0.0, -0.0, inf, -inf, float("nan"), -float("nan")]
        values = torch.tensor(borders, dtype=TORCH_DTYPES[dtype])
    expected = int((~torch.isfinite(values)).sum())
    assert expected and num_not_finite(data_of(values), dtype) == expected


def test_whole_numbers_have_no_such_values() -> None:
    assert num_not_finite(b"\xff" * 16, "I64") == 0 and num_not_finite(b"\xff" * 16, "F8_E4M3") == 0


def test_pieces_add_up() -> None:
    values = torch.zeros(1 << 19)
    values[::1000] = float("nan")
    data, count = data_of(values), FiniteCount("F32")
    for first in range(0, len(data), 1 << 16):
        count.see(data[first : first + (1 << 16)])
    assert count.num_not_finite == num_not_finite(data, "F32") == 525


def test_the_words_agree_with_the_number() -> None:
    assert not_finite_words(1) == "1 value that is not finite (NaN or infinite)"
    assert not_finite_words(2) == "2 values that are not finite (NaN or infinite)"
