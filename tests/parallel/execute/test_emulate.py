"""An emulated device takes as long as it says, and no less."""

from __future__ import annotations

import time

import pytest
from dougong.parallel.execute.emulate import Emulation, lasting


def test_times_of_operations() -> None:
    emulation = Emulation(segment_s=0.5, row_s=0.25)
    assert (emulation.forward_s(), emulation.backward_s(), emulation.experts_s(6)) == (0.5, 1.0, 1.5)


def test_none_takes_no_time_of_its_own() -> None:
    nothing = Emulation()
    assert (nothing.forward_s(), nothing.backward_s(), nothing.experts_s(100)) == (0, 0, 0)


def test_what_is_quicker_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with lasting(60.0):
        pass
    assert len(slept) == 1 and 0 < slept[0] <= 60
    with lasting(0.0):
        pass
    assert len(slept) == 1, "what has taken longer is not"
