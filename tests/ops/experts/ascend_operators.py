"""Stand-ins of torch_npu's operators, of the same form and with the same limits, for any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# torch_npu 2.x, op-plugin: op_plugin_functions.yaml.
GROUPED_MATMUL = (
    "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None, "
    "Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None, "
    "Tensor[]? per_token_scale=None, Tensor? group_list=None, Tensor[]? activation_input=None, "
    "Tensor[]? activation_quant_scale=None, Tensor[]? activation_quant_offset=None, int? split_item=0, "
    "int? group_type=None, int? group_list_type=0, int? act_type=0, int[]? tuning_config=None, "
    "int? output_dtype=None) -> Tensor[]"
)


def grouped_matmul(
    x: Sequence[Tensor], weight: Sequence[Tensor], *, split_item: int = 0, group_type: int | None = None
) -> list[Tensor]:
    """The rules of the real one for groups with tensors of their own. (The dispatcher leaves defaults out.)"""
    assert (group_type, split_item) == (-1, 0)
    assert 0 < len(x) == len(weight) <= 128
    assert {t.dim() for t in (*x, *weight)} == {2} and len({t.dtype for t in (*x, *weight)}) == 1
    return [a @ b for a, b in zip(x, weight, strict=True)]


def swiglu(packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    return F.silu(gate) * up


def swiglu_backward(grad_output: Tensor, packed: Tensor, dim: int = -1) -> Tensor:
    gate, up = packed.chunk(2, dim)
    return torch.cat([torch.ops.aten.silu_backward(grad_output * up, gate), grad_output * F.silu(gate)], dim)


def define(library: torch.library.Library, key: str) -> None:
    """Make them known to torch. `library`: that of the namespace `npu`; `key`: of the device, as torch dispatches."""
    library.define(GROUPED_MATMUL)
    library.define("npu_swiglu(Tensor self, int dim=-1) -> Tensor")
    library.define("npu_swiglu_backward(Tensor grad_output, Tensor self, int dim=-1) -> Tensor")
    for function in (grouped_matmul, swiglu, swiglu_backward):
        library.impl(f"npu_{function.__name__}", function, key)
