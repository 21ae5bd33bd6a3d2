"""A device in words."""

from __future__ import annotations

import torch
from dougong.fingerprint.device import describe


def test_what_explains_the_bits_of_a_processor() -> None:
    found = describe(torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert "device" not in found and all(found.values())
