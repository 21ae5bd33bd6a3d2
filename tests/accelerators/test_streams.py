"""A processor has no streams. What marks do on a device: `tests/simdev/messages.py`."""

from __future__ import annotations

import torch
from dougong.accelerators.streams import enter_own_stream, mark, use_here, wait_for

CPU = torch.device("cpu")


def test_a_processor_needs_no_marks() -> None:
    enter_own_stream(CPU)
    assert mark(CPU) is None
    wait_for(None, CPU)
    use_here([torch.ones(2)])
