"""Bits do not follow from where a slice begins, nor from how many rows there are: on a device that minds both."""

from __future__ import annotations

import os

import pytest
import torch
from dougong.ops.alignment import aligned, is_aligned, product_into
from dougong.ops.sizes import ALIGNMENT_BYTES
from tests.simdev import together

MODULE = "tests.ops.device_checks"


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    vendor = {"SIMDEV_VENDOR": "sima", "SIMDEV_MINDS_LAYOUT": "1"}
    return together.run(MODULE, {**os.environ, **vendor, "PYTHONPATH": str(together.ROOT), "OMP_NUM_THREADS": "1"})


@pytest.mark.simulated
@pytest.mark.parametrize("name", together.names_of(MODULE))
def test_on_a_device_that_minds(name: str, results: dict[str, str]) -> None:
    assert not results[name], results[name]


def test_a_processor_copies_nothing() -> None:
    rows = torch.randn(9, 3)[1:]
    assert is_aligned(rows) and aligned(rows) is rows
    out = torch.empty(9, 2)[1:]
    weight = torch.randn(3, 2)
    product_into(rows, weight, out)
    assert torch.equal(out, rows @ weight)
    assert ALIGNMENT_BYTES == 512
