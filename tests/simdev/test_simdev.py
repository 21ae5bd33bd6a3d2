"""The simulated device does to a program what a device does, and a processor does not."""

from __future__ import annotations

import os

import pytest
from tests.simdev import together

pytestmark = pytest.mark.simulated

MODULE = "tests.simdev.checks"


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    vendor = {"SIMDEV_VENDOR": "sima", "SIMDEV_MISSING": "aten::erfinv", "SIMDEV_BY_HOST": "aten::sinh"}
    return together.run(MODULE, {**os.environ, **vendor, "PYTHONPATH": str(together.ROOT), "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("name", together.names_of(MODULE))
def test_it_keeps_the_rules_of_a_device(name: str, results: dict[str, str]) -> None:
    assert not results[name], results[name]
