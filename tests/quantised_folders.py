"""Folders whose weights are quantised as official releases have them, made of small ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.folders import Tensors, change_config, change_weights
from torch import Tensor
from torch.nn.functional import pad

BLOCK = (16, 24)
"""No dimension of a tiny model is a multiple of all such."""


def fp8_pair(values: Tensor, block: tuple[int, int] = BLOCK, scale: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """(FP8 values, a scale for each block); the last blocks may be cut short. Powers of two where the scales are."""
    rows, columns = values.shape[-2:]
    height, width = block
    whole = pad(values.float(), (0, -columns % width, 0, -rows % height))
    tiles = whole.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))
    scales = (tiles.abs().amax(dim=(-3, -1)) / 448.0).clamp(min=1e-9)
    if scale != torch.float32:
        scales = scales.log2().ceil().exp2()
    stored = (tiles / scales[..., :, None, :, None]).flatten(-4, -3).flatten(-2)[..., :rows, :columns]
    return stored.contiguous().to(torch.float8_e4m3fn), scales.to(scale)


def to_fp8(folder: Path, block: tuple[int, int] = BLOCK, scale: str = "{}_scale_inv", method: str = "fp8") -> None:
    """Every matrix of the decoder layers but routers; `scale`: what a scale's name is, {} the values' name."""

    def quantise(tensors: Tensors) -> None:
        for name in [n for n in tensors if is_quantised(n, tensors[n])]:
            values, scales = fp8_pair(tensors[name], block)
            tensors |= {name: values, scale.format(name, name.removesuffix(".weight")): scales}

    change_weights(folder, quantise)
    said = {"quant_method": method, "weight_block_size": list(block), "activation_scheme": "dynamic"}
    change_config(folder, quantization_config=said)


def by_hand(values: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """Value by value: values[..., i, j] * scales[..., i // rows, j // columns]."""
    rows = torch.arange(values.shape[-2]) // block[0]
    columns = torch.arange(values.shape[-1]) // block[1]
    return values.float() * scales[..., rows[:, None], columns]


def unfold(folder: Path, block: tuple[int, int]) -> None:
    """What `to_fp8` has made, in float32."""

    def multiply(tensors: Tensors) -> None:
        for scale in [name for name in tensors if name.endswith("_scale_inv")]:
            name = scale.removesuffix("_scale_inv")
            tensors[name] = by_hand(tensors[name], tensors.pop(scale), block)

    change_weights(folder, multiply)
    change_config(folder, quantization_config=None)


def is_quantised(name: str, tensor: Tensor) -> bool:
    is_router = name.endswith((".gate.weight", "router.weight", "classifier.weight"))
    is_matrix = name.endswith((".weight", "_proj")) and tensor.dim() > 1
    return ".layers." in name and is_matrix and not is_router


def to_mxfp4(folder: Path) -> None:
    """gpt-oss: the experts' matrices [E, in, out] as blocks of 32 along `in`."""

    def quantise(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            experts, num_in, num_out = tensors.pop(name).shape
            shape = experts, num_out, num_in // 32
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(118, 128, shape, dtype=torch.uint8)

    change_weights(folder, quantise)
    change_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
