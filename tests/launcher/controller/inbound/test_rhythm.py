"""What costs much is done less often, and never too seldom."""

from __future__ import annotations

import pytest
from dougong.launcher.controller.inbound.rhythm import Rhythm


@pytest.mark.parametrize(("cost_s", "due_in_s"), [(0.0, 0.1), (0.001, 0.1), (0.03, 0.3), (1.0, 0.8)])
def test_the_pause_grows_with_the_cost_between_two_limits(cost_s: float, due_in_s: float) -> None:
    rhythm = Rhythm(0.1, 0.8)
    assert rhythm.due_at == 0.0, "the first one is due at once"
    rhythm.note(5.0, 5.0 + cost_s)
    assert rhythm.due_at == pytest.approx(5.0 + due_in_s)
