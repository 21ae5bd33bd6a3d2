"""The kernels compiled for NVIDIA GPUs, which needs none: what the interpreter does not see."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.control.environment import temporary_variables
from dougong.ops.experts import triton_kernels
from dougong.ops.experts.tile_tables import Tile, choose_tiles


def compile_kernel(name: str, tile: Tile, height: int, dtype: str, arch: int, **more: Any) -> str:
    """A kernel's PTX, for sizes that fill whole tiles."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(triton_kernels, name)
    fixed = {"BLOCK_M": height, "BLOCK_N": tile.columns, "BLOCK_K": tile.depth}
    fixed = {n: fixed.get(n, more.get(n, True)) for n in kernel.arg_names if n.isupper() and len(n) > 1}
    kinds = dict.fromkeys(("tiles", "rows", "experts", "spans"), "*i32") | dict.fromkeys(("weights", "grads"), "*i64")
    kinds |= dict.fromkeys(("hidden", "width", "height", "K", "N"), "i32")
    signature = {n: "constexpr" if n in fixed else kinds.get(n, f"*{dtype}") for n in kernel.arg_names}
    places = {n: (i,) for i, n in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        signature,
        constexprs={places[n]: value for n, value in fixed.items()},
        attrs={places[n]: [["tt.divisibility", 16]] for n in signature if n not in fixed},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert compiled.metadata.shared <= {80: 163, 90: 227}[arch] * 1024
    return str(compiled.asm["ptx"])


@pytest.mark.parametrize(
    ("name", "tile", "more"),
    [
        ("_gate_up_kernel", "gate_up", {}),
        ("_linear_kernel", "linear", {"TRANSPOSED": True}),
        ("_linear_kernel", "linear", {"TRANSPOSED": False}),
        ("_inner_backward_kernel", "inner_backward", {}),
        ("_weight_gradient_kernel", "weight_gradient", {}),
    ],
)
@pytest.mark.parametrize(("dtype", "arch"), [("bf16", 90), ("bf16", 80), ("fp32", 90)])
def test_no_atomics_no_tf32_and_tensor_cores_for_half_precision(
    name: str, tile: str, more: dict[str, Any], dtype: str, arch: int, tmp_path: Path
) -> None:
    tiles = choose_tiles(torch.float32 if dtype == "fp32" else torch.bfloat16, arch)
    with temporary_variables({"TRITON_CACHE_DIR": str(tmp_path)}):
        ptx = compile_kernel(name, getattr(tiles, tile), tiles.height, dtype, arch, **more)
    assert not re.search(r"\b(atom|red)\.|tf32", ptx)
    products = {("bf16", 90): "wgmma.mma_async", ("bf16", 80): "mma.sync", ("fp32", 90): "fma.rn.f32"}
    assert re.search(re.escape(products[dtype, arch]), ptx)
    if dtype == "bf16":
        assert "f32.bf16.bf16" in ptx, "sums in float32"
        assert name == "_weight_gradient_kernel" or "cvt.rn.bf16x2.f32" in ptx, "rounded to the nearest"
        assert re.search(r"cp\.async\.cg\.\S+ .*0x10", ptx), "rows and weights are loaded 16 bytes at a time"
