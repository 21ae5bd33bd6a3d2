"""A control group that cannot be had is told with its controller."""

from __future__ import annotations

import pytest
from dougong.testing import LabError
from dougong.testing.group import ControlGroup

pytestmark = pytest.mark.lab


def test_a_controller_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match="nonsense"):
        ControlGroup("nonsense", ("nonsense.one", "nonsense.two"))
