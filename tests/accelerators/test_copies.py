"""Copies to a device; on a processor there is none."""

from __future__ import annotations

import torch
from dougong.accelerators.copies import on_device


def test_what_is_there_is_not_copied() -> None:
    values = torch.arange(3)
    assert on_device(values, torch.device("cpu")) is values
