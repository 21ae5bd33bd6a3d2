"""Grouped products of all of a worker's experts in four Triton kernels, SwiGLU inside: a forward
and its two gradients.

Every kernel follows the same rules, so that a result depends on what it is a result of and on
nothing else:

- Tiles have one fixed shape (`tile_tables.Tiles`), whatever the number of rows; a tile that is not
  full is filled up with rows whose results are thrown away.
- The long sum of a product is walked by one program, in steps of one fixed depth, from its
  beginning to its end, in float32: no split-K, no atomics, no TF32. A row's output depends on the
  row and the expert's weights; which rows stand beside it in its tile, and where, does not matter.
- Weight gradients are summed lane by lane in ascending order, a lane's rows in steps that begin at
  its first row. Each lane's sum begins at zero and is then added to the accumulator: what another
  expert got does not matter.
- silu, its gradient and all roundings are written for one element.

An expert's tensors are where they are: kernels read their addresses from a table. So every tensor
is contiguous and begins at a multiple of 16 bytes. Works on CPU tensors where TRITON_INTERPRET=1
stood in the environment before triton was imported; that is how the tests run it without a GPU.

Legend: R rows of a wave, M rows of a tile, N columns of a tile, K the depth of one step, H hidden
size, I inner size.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from dougong.ops.experts.tile_tables import TILE_FIELDS, Tile, Wave

_FIELDS = tl.constexpr(TILE_FIELDS)
_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


def gate_up(
    wave: Wave, tile: Tile, x_RH: Tensor, weights: Tensor, gate_up_R2I: Tensor, inner_RI: Tensor
) -> None:
    """gate_up = x W^T with W [2I, H], and inner = silu(gate) * up of the rounded halves."""
    hidden, inner = x_RH.shape[1], inner_RI.shape[1]
    grid = (wave.num_tiles * triton.cdiv(inner, tile.columns),)
    _gate_up_kernel[grid](
        x_RH, weights, gate_up_R2I, inner_RI, wave.tiles, wave.rows, hidden, inner,
        wave.height, tile.columns, tile.depth, hidden % tile.depth == 0, inner % tile.columns == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def linear(
    wave: Wave, tile: Tile, x_RK: Tensor, weights: Tensor, y_RN: Tensor, transposed: bool
) -> None:
    """y = x W^T with W [N, K] where `transposed`, else y = x W with W [K, N]."""
    depth, width = x_RK.shape[1], y_RN.shape[1]
    grid = (wave.num_tiles * triton.cdiv(width, tile.columns),)
    _linear_kernel[grid](
        x_RK, weights, y_RN, wave.tiles, wave.rows, depth, width,
        wave.height, tile.columns, tile.depth, transposed,
        depth % tile.depth == 0, width % tile.columns == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def inner_backward(
    wave: Wave,
    tile: Tile,
    dy_RH: Tensor,
    weights: Tensor,
    gate_up_R2I: Tensor,
    dgate_up_R2I: Tensor,
) -> Tensor:
    """dgate_up, from dinner = dy W with W [H, I] (not rounded) and SwiGLU's gradient.

    Returns inner [R, I], computed again.
    """
    hidden, inner = dy_RH.shape[1], gate_up_R2I.shape[1] // 2
    inner_RI = dy_RH.new_empty(len(dy_RH), inner)
    grid = (wave.num_tiles * triton.cdiv(inner, tile.columns),)
    _inner_backward_kernel[grid](
        dy_RH, weights, gate_up_R2I, dgate_up_R2I, inner_RI, wave.tiles, wave.rows, hidden, inner,
        wave.height, tile.columns, tile.depth, hidden % tile.depth == 0, inner % tile.columns == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return inner_RI


def weight_gradient(
    wave: Wave, tile: Tile, left_RA: Tensor, right_RB: Tensor, grads: Tensor
) -> None:
    """Per expert: grad [A, B] (float32) += left^T right, lane after lane."""
    height, width = left_RA.shape[1], right_RB.shape[1]
    num_tiles = triton.cdiv(height, tile.columns) * triton.cdiv(width, tile.columns)
    _weight_gradient_kernel[(wave.num_experts * num_tiles,)](
        left_RA, right_RB, grads, wave.experts, wave.spans, height, width, tile.columns, tile.depth,
        height % tile.columns == 0 and width % tile.columns == 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def device_arch() -> int:
    """Compute capability of the current GPU as one number, such as 90."""
    return int(triton.runtime.driver.active.get_current_target().arch)


@triton.jit
def _find_tile(tiles: tl.tensor, rows: tl.tensor, num_strips: int, BLOCK_M: tl.constexpr) -> Any:
    """(expert's slot, rows [M], which of them are its own [M], strip of columns) of this program.

    Programs of a group of row tiles take them in turn, strip by strip: the group's rows and the
    strip's weights are read from the cache.
    """
    program = tl.program_id(0)
    some = tiles + (program // num_strips) * _FIELDS  # a tile of the same group
    first, size = tl.load(some + 3), tl.load(some + 4)
    place = program - first * num_strips
    tile = tiles + (first + place % size) * _FIELDS
    offsets_M = tl.arange(0, BLOCK_M)
    own_M = offsets_M < tl.load(tile + 2)
    # A row that is none of the tile's reads row 0: any row will do, nothing of it is kept.
    rows_M = tl.load(rows + tl.load(tile + 1) + offsets_M, mask=own_M, other=0).to(tl.int64)
    return tl.load(tile), rows_M, own_M, place // size


@triton.jit
def _address(table: tl.tensor, slot: int, DTYPE: tl.constexpr) -> Any:
    """Where the tensor of the expert in `slot` begins."""
    return tl.multiple_of(tl.load(table + slot).to(tl.pointer_type(DTYPE)), 16)


@triton.jit
def _columns(strip: int, BLOCK_N: tl.constexpr) -> Any:
    return strip * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _load(pointers: tl.tensor, fits: tl.tensor, EVEN: tl.constexpr) -> Any:
    """What `pointers` point to; 0 where it does not fit. `EVEN`: everything fits."""
    return tl.load(pointers) if EVEN else tl.load(pointers, mask=fits, other=0.0)


@triton.jit
def _dot(left: tl.tensor, right: tl.tensor, total: tl.tensor) -> Any:
    """total + left right in float32."""
    if _INTERPRETED:
        # The interpreter's product takes bfloat16 for integers, and numpy's bits depend on the
        # rows' neighbours.
        total += tl.sum(left.to(tl.float32)[:, :, None] * right.to(tl.float32)[None, :, :], axis=1)
    else:
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
def _silu(gate: tl.tensor) -> Any:
    """(sigmoid, silu) of float32 values."""
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    return sigmoid, gate * sigmoid


@triton.jit
def _gate_up_kernel(
    x: tl.tensor, weights: tl.tensor, gate_up: tl.tensor, inner: tl.tensor,
    tiles: tl.tensor, rows: tl.tensor, hidden: int, width: int,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
) -> None:  # fmt: skip
    slot, rows_M, own_M, strip = _find_tile(tiles, rows, tl.cdiv(width, BLOCK_N), BLOCK_M)
    columns_N, depth_K = _columns(strip, BLOCK_N), tl.arange(0, BLOCK_K)
    x_MK = x + rows_M[:, None] * hidden + depth_K[None, :]
    gate_KN = (
        _address(weights, slot, x.dtype.element_ty) + columns_N[None, :] * hidden + depth_K[:, None]
    )
    up_KN = gate_KN + width * hidden
    fits_N = columns_N < width
    gate_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up_MN = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, hidden, BLOCK_K):
        fits_K = depth_K < hidden - k
        rows_MK = _load(x_MK + k, fits_K[None, :], EVEN_K)
        fits_KN = fits_K[:, None] & fits_N[None, :]
        gate_MN = _dot(rows_MK, _load(gate_KN + k, fits_KN, EVEN_K and EVEN_N), gate_MN)
        up_MN = _dot(rows_MK, _load(up_KN + k, fits_KN, EVEN_K and EVEN_N), up_MN)
    dtype = x.dtype.element_ty
    gate_MN, up_MN = gate_MN.to(dtype), up_MN.to(dtype)
    own_MN = own_M[:, None] & fits_N[None, :]
    out_MN = gate_up + rows_M[:, None] * (2 * width) + columns_N[None, :]
    tl.store(out_MN, gate_MN, mask=own_MN)
    tl.store(out_MN + width, up_MN, mask=own_MN)
    _, silu_MN = _silu(gate_MN.to(tl.float32))
    inner_MN = silu_MN * up_MN.to(tl.float32)
    tl.store(inner + rows_M[:, None] * width + columns_N[None, :], inner_MN.to(dtype), mask=own_MN)


@triton.jit
def _product(
    x: tl.tensor, w: tl.tensor, rows_M: tl.tensor, columns_N: tl.tensor, K: int, N: int,
    BLOCK_K: tl.constexpr, TRANSPOSED: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
) -> Any:  # fmt: skip
    """x W^T or x W of a tile, [M, N] in float32."""
    depth_K = tl.arange(0, BLOCK_K)
    x_MK = x + rows_M[:, None] * K + depth_K[None, :]
    if TRANSPOSED:
        w_KN, step = w + columns_N[None, :] * K + depth_K[:, None], 1
    else:
        w_KN, step = w + columns_N[None, :] + depth_K[:, None] * N, N
    total_MN = tl.zeros((rows_M.shape[0], columns_N.shape[0]), tl.float32)
    for k in range(0, K, BLOCK_K):
        fits_K = depth_K < K - k
        rows_MK = _load(x_MK + k, fits_K[None, :], EVEN_K)
        weights_KN = _load(
            w_KN + k * step, fits_K[:, None] & (columns_N < N)[None, :], EVEN_K and EVEN_N
        )
        total_MN = _dot(rows_MK, weights_KN, total_MN)
    return total_MN


@triton.jit
def _linear_kernel(
    x: tl.tensor, weights: tl.tensor, y: tl.tensor,
    tiles: tl.tensor, rows: tl.tensor, K: int, N: int,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    TRANSPOSED: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
) -> None:  # fmt: skip
    slot, rows_M, own_M, strip = _find_tile(tiles, rows, tl.cdiv(N, BLOCK_N), BLOCK_M)
    columns_N = _columns(strip, BLOCK_N)
    w = _address(weights, slot, x.dtype.element_ty)
    total_MN = _product(x, w, rows_M, columns_N, K, N, BLOCK_K, TRANSPOSED, EVEN_K, EVEN_N)
    own_MN = own_M[:, None] & (columns_N < N)[None, :]
    tl.store(
        y + rows_M[:, None] * N + columns_N[None, :], total_MN.to(x.dtype.element_ty), mask=own_MN
    )


@triton.jit
def _inner_backward_kernel(
    dy: tl.tensor, weights: tl.tensor, gate_up: tl.tensor, dgate_up: tl.tensor, inner: tl.tensor,
    tiles: tl.tensor, rows: tl.tensor, hidden: int, width: int,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr, EVEN_N: tl.constexpr,
) -> None:  # fmt: skip
    slot, rows_M, own_M, strip = _find_tile(tiles, rows, tl.cdiv(width, BLOCK_N), BLOCK_M)
    columns_N = _columns(strip, BLOCK_N)
    w = _address(weights, slot, dy.dtype.element_ty)
    dinner_MN = _product(dy, w, rows_M, columns_N, hidden, width, BLOCK_K, False, EVEN_K, EVEN_N)
    dtype = dy.dtype.element_ty
    # Half of the columns at a time: all at once would not fit into registers.
    halves_MN = dinner_MN.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
    for half in tl.static_range(2):
        dinner_MN = halves_MN[half]
        columns_N = strip * BLOCK_N + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        own_MN = own_M[:, None] & (columns_N < width)[None, :]
        places_MN = rows_M[:, None] * (2 * width) + columns_N[None, :]
        gate_MN = tl.load(gate_up + places_MN, mask=own_MN, other=0.0).to(tl.float32)
        up_MN = tl.load(gate_up + places_MN + width, mask=own_MN, other=0.0).to(tl.float32)
        sigmoid_MN, silu_MN = _silu(gate_MN)
        dgate_MN = dinner_MN * up_MN * (sigmoid_MN + silu_MN * (1.0 - sigmoid_MN))
        tl.store(dgate_up + places_MN, dgate_MN.to(dtype), mask=own_MN)
        tl.store(dgate_up + places_MN + width, (dinner_MN * silu_MN).to(dtype), mask=own_MN)
        tl.store(
            inner + rows_M[:, None] * width + columns_N[None, :],
            (silu_MN * up_MN).to(dtype),
            mask=own_MN,
        )


@triton.jit
def _weight_gradient_kernel(
    left: tl.tensor, right: tl.tensor, grads: tl.tensor,
    experts: tl.tensor, spans: tl.tensor, height: int, width: int,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr,
) -> None:  # fmt: skip
    num_high = tl.cdiv(height, BLOCK_N)
    num_tiles = num_high * tl.cdiv(width, BLOCK_N)
    expert = experts + (tl.program_id(0) // num_tiles) * 3
    place = tl.program_id(0) % num_tiles
    high_A, wide_B = _columns(place % num_high, BLOCK_N), _columns(place // num_high, BLOCK_N)
    fits_A, fits_B = high_A < height, wide_B < width
    grad_AB = (
        _address(grads, tl.load(expert), tl.float32) + high_A[:, None] * width + wide_B[None, :]
    )
    total_AB = _load(grad_AB, fits_A[:, None] & fits_B[None, :], EVEN)
    row_K = tl.arange(0, BLOCK_K)
    left_at_AK = row_K[None, :] * height + high_A[:, None]
    right_at_KB = row_K[:, None] * width + wide_B[None, :]
    first = tl.load(expert + 1)
    for span in range(first, first + tl.load(expert + 2)):
        start, count = tl.load(spans + span * 2).to(tl.int64), tl.load(spans + span * 2 + 1)
        lane_AB = tl.zeros((BLOCK_N, BLOCK_N), tl.float32)
        for k in range(0, count, BLOCK_K):
            fits_K = row_K < count - k
            left_AK = left + (start + k) * height + left_at_AK
            right_KB = right + (start + k) * width + right_at_KB
            some_AK = tl.load(left_AK, mask=fits_A[:, None] & fits_K[None, :], other=0.0)
            some_KB = tl.load(right_KB, mask=fits_K[:, None] & fits_B[None, :], other=0.0)
            lane_AB = _dot(some_AK, some_KB, lane_AB)
        total_AB += lane_AB
    tl.store(grad_AB, total_AB, mask=fits_A[:, None] & fits_B[None, :])
