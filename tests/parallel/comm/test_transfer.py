"""What travels."""

from __future__ import annotations

import torch
from dougong.parallel.comm.transfer import Transfer


def test_its_bytes_are_its_tensors() -> None:
    assert Transfer(1, torch.zeros(3, 2, dtype=torch.bfloat16)).num_bytes == 12
    assert Transfer(1, torch.zeros(0)).num_bytes == 0
