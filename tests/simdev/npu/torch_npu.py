"""Stands for Ascend's plug-in: the simulated device under the name `npu`, its library under `hccl`, and the fused
operators that dougong asks for, with the form and the limits of the real ones.

This folder is on the path of a process that is to have no other `torch_npu`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.update({"SIMDEV_VENDOR": "npu", "SIMDEV_LIBRARY": "hccl"})

import types

import torch
import torch.nn.functional as F
from tests.simdev.plugin import module as npu
from torch import Tensor

npu.matmul = types.SimpleNamespace(allow_hf32=False)
npu.conv = types.SimpleNamespace(allow_hf32=True)

# torch_npu 2.x, op-plugin: op_plugin_functions.yaml.
_GROUPED_MATMUL = (
    "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor? group_list=None, "
    "int? split_item=0, int? group_type=None) -> Tensor[]"
)


def _grouped_matmul(
    x: Sequence[Tensor], weight: Sequence[Tensor], *, split_item: int = 0, group_type: int | None = None
) -> list[Tensor]:
    if (group_type, split_item) != (-1, 0) or not 0 < len(x) == len(weight) <= 128:
        raise RuntimeError("npu_grouped_matmul: groups with tensors of their own are due, 128 at most")
    return [a @ b for a, b in zip(x, weight, strict=True)]


def _swiglu(packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    return F.silu(gate) * up


def _swiglu_backward(grad_output: Tensor, packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    gate_grad = torch.ops.aten.silu_backward(grad_output * up, gate)
    return torch.cat([gate_grad, grad_output * F.silu(gate)], dim)


_library = torch.library.Library("npu", "DEF")
_library.define(_GROUPED_MATMUL)
_library.define("npu_swiglu(Tensor self, int dim=-1) -> Tensor")
_library.define("npu_swiglu_backward(Tensor grad_output, Tensor self, int dim=-1) -> Tensor")
for _function in (_grouped_matmul, _swiglu, _swiglu_backward):
    _library.impl(f"npu{_function.__name__}", _function, "PrivateUse1")


def npu_fusion_attention(*_: object, **__: object) -> None:
    """transformers wants its name where there is a plug-in at all."""
    raise NotImplementedError("npu_fusion_attention")


__all__ = ["npu", "npu_fusion_attention"]
