"""The probes of one job: its own shapes, in its own precision. Math libraries choose their kernels
by shape.

A product keeps the length of its sum; only how many results there are is cut, so that a large
model's probes stay quick (`Bench.most_elements`).

Legend: M rows of a block, N a weight's rows, K its columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.fingerprint.bench import DTYPES, Bench, Probes
from dougong.fingerprint.record import JobShapes

_MOST_HEADS = 2
_MOST_TOKENS = 512


def shaped_probes(bench: Bench, shapes: JobShapes, precision: str) -> Probes:
    """(name, probe) for every weight and width of the job."""
    dtype = DTYPES[precision]
    for rows, columns in shapes.matrices:
        yield from _weight(bench, (rows, columns), shapes.rows, dtype)
    yield (
        f"job: attention {shapes.sequence} x {shapes.head_size}",
        lambda: _attention(bench, shapes, dtype),
    )
    yield f"job: rms_norm {shapes.hidden}", lambda: _norm(bench, shapes, dtype)
    yield f"job: gate {shapes.inner}", lambda: _gate(bench, shapes, dtype)
    yield f"job: router {shapes.experts}", lambda: _softmax(bench, shapes.experts)
    yield (
        f"job: cross_entropy {shapes.vocabulary}",
        lambda: _cross_entropy(bench, shapes.vocabulary),
    )


def _weight(
    bench: Bench, weight: tuple[int, int], rows: Sequence[int], dtype: torch.dtype
) -> Probes:
    """A weight [N, K] meets blocks of every height: forward, gradient of the rows, gradient of the
    weight."""
    n, k = weight
    most = bench.most_elements
    fewer_n, fewer_k = cut(n, k, most), cut(k, n, most)
    small_n, small_k = min(n, fewer_n, 512), min(k, fewer_k, most // 512)

    def forward() -> list[Tensor]:
        w = bench.values("w", fewer_n, k, dtype=dtype)
        return [F.linear(bench.values("x", m, k, dtype=dtype), w) for m in rows]

    def to_rows() -> list[Tensor]:
        w = bench.values("w", n, fewer_k, dtype=dtype)
        return [bench.values("dy", m, n, dtype=dtype) @ w for m in rows]

    def to_weight() -> list[Tensor]:
        sides = [
            (
                bench.values("dy", m, small_n, dtype=dtype),
                bench.values("x", m, small_k, dtype=dtype),
            )
            for m in rows
        ]
        return [dy.t() @ x for dy, x in sides]

    yield f"job: product {n} x {k}", forward
    yield f"job: product {n} x {k}, to the input", to_rows
    yield f"job: product {n} x {k}, to the weight", to_weight


def cut(size: int, other: int, most: int) -> int:
    """`size`, or the largest multiple of 64 with `size * other <= most` (at least 64) where it is
    more."""
    return size if size * other <= most else min(size, max(64, most // other // 64 * 64))


def _attention(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> tuple[Tensor, ...]:
    size = (1, min(shapes.heads, _MOST_HEADS), min(shapes.sequence, _MOST_TOKENS), shapes.head_size)
    q, k, v = (bench.leaf(name, *size, dtype=dtype) for name in "qkv")
    return bench.with_gradients(F.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)


def _norm(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> tuple[Tensor, ...]:
    rows = min(shapes.sequence, _MOST_TOKENS)
    x, w = (
        bench.leaf("x", rows, shapes.hidden, dtype=dtype),
        bench.leaf("w", shapes.hidden, dtype=dtype),
    )
    return bench.with_gradients(F.rms_norm(x, (shapes.hidden,), w, 1e-6), x, w)


def _gate(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> list[Tensor]:
    """SiLU(gate) * up on blocks of every height: its vector tail falls elsewhere in each."""
    found: list[Tensor] = []
    for m in shapes.rows:
        gate, up = (bench.leaf(name, m, shapes.inner, dtype=dtype) for name in ("gate", "up"))
        found += bench.with_gradients(F.silu(gate) * up, gate, up)
    return found


def _softmax(bench: Bench, width: int) -> tuple[Tensor, ...]:
    x = bench.leaf("x", 65, width)
    return bench.with_gradients(x.softmax(-1), x)


def _cross_entropy(bench: Bench, width: int) -> tuple[Tensor, ...]:
    x = bench.leaf("x", 7, width)
    return bench.with_gradients(F.cross_entropy(x, bench.ids(7, width), reduction="none"), x)
