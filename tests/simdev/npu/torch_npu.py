"""Stands for Ascend's plug-in: the simulated device under the name `npu`, its library under `hccl`, and the fused
operators that dougong asks for.

This folder is on the path of a process that is to have no other `torch_npu`.
"""

from __future__ import annotations

import os

os.environ.update({"SIMDEV_VENDOR": "npu", "SIMDEV_LIBRARY": "hccl"})

import types

import torch
from tests.ops.experts.ascend_operators import define
from tests.simdev.plugin import module as npu

npu.matmul = types.SimpleNamespace(allow_hf32=False)
npu.conv = types.SimpleNamespace(allow_hf32=True)
_library = torch.library.Library("npu", "DEF")
define(_library, "PrivateUse1")

__all__ = ["npu"]
