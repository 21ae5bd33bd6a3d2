"""Values in one form: rounded as torch rounds, and found again where they lie otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dougong.tools.experts.contents import StoredPart
from dougong.tools.experts.values import (
    clash_words,
    clashes,
    common_dtype,
    dtypes_of,
    in_dtype,
    is_comparable,
    leads,
    parts_of,
)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def data_of(tensor: torch.Tensor) -> bytearray:
    return bytearray(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def special() -> torch.Tensor:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 1e3
    edges = torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, 3.4e38, 1e-40, float("inf"), -float("inf")])
    return torch.cat([numbers, edges])


@pytest.mark.parametrize(("stored", "wanted"), [("F32", "BF16"), ("F32", "F16"), ("F64", "F32"), ("F64", "BF16")])
def test_what_is_rounded_is_rounded_as_torch_does(stored: str, wanted: str) -> None:
    values = special().to(DTYPES[stored])
    due = np.frombuffer(data_of(values.to(DTYPES[wanted])), np.uint8)
    assert np.array_equal(in_dtype(data_of(values), stored, wanted), due)


def test_what_is_not_a_number_stays_one_and_what_is_no_float_stays_as_it_is() -> None:
    data = data_of(torch.tensor([float("nan")]))
    assert torch.frombuffer(bytearray(in_dtype(data, "F32", "BF16").tobytes()), dtype=torch.bfloat16).isnan().all()
    assert in_dtype(bytearray(b"\1\2"), "U8", "U8").tolist() == [1, 2]


def test_the_less_exact_dtype_is_common_to_both() -> None:
    assert common_dtype("F32", "BF16") == common_dtype("BF16", "F32") == "BF16"
    assert (common_dtype("F64", "F32"), common_dtype("U8", "F32")) == ("F32", "U8")


def part(name: str, shape: tuple[int, ...], dtype: str = "F32") -> StoredPart:
    return StoredPart(name, dtype, shape, ())


def test_parts_of_families_have_names_that_all_share() -> None:
    mixtral = parts_of({f"w{n}.weight": part("w", (2, 3)) for n in (1, 2, 3)})
    assert set(mixtral) == {"gate", "up", "down"}
    fused = parts_of({"gate_up_proj": part("g", (4, 3), "BF16"), "down_proj": part("d", (3, 2))})
    assert set(fused) == {"gate and up", "down"}
    assert set(parts_of({"fc1.weight": part("f", (4, 3)), "fc2.weight": part("f", (3, 2))})) == set(fused)
    assert leads(mixtral, fused) and not leads(fused, mixtral) and leads(fused, fused)
    assert dtypes_of(mixtral, fused) == {"gate": "BF16", "up": "BF16", "down": "F32"}
    assert set(parts_of({"gate_up_proj_bias": part("b", (4,))})) == {"gate_up_proj_bias"}


def test_dtypes_without_a_common_one_are_named_and_values_are_left_as_they_are() -> None:
    assert is_comparable("F32", "BF16") and is_comparable("F8_E4M3", "F8_E4M3")
    assert not is_comparable("F8_E4M3", "BF16") and not is_comparable("F32", "U8")
    assert in_dtype(data_of(torch.ones(2)), "F32", "F8_E4M3").size == 8
    assert clash_words("F8_E4M3", "BF16").startswith("F8_E4M3 and BF16, which cannot be compared; ")
    eights = parts_of({"gate_proj.weight": part("g", (2, 3), "F8_E4M3"), "down_proj.weight": part("d", (3, 2))})
    fused = parts_of({"gate_up_proj": part("g", (4, 3), "BF16"), "down_proj": part("d", (3, 2))})
    assert clashes(eights, fused).startswith("gate of an expert is F8_E4M3 and BF16, which")
    assert clashes(fused, eights).startswith("gate of an expert is BF16 and F8_E4M3, which")
    assert clashes(fused, fused) == ""
