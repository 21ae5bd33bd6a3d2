"""A lab of two hosts for all tests of a file; a test that breaks its network heals it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dougong.testing import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(num_hosts=2) as lab:
        yield lab
