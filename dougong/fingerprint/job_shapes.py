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

from dougong.fingerprint.bench import DTYPES, Bench, Probe, Probes
from dougong.fingerprint.record import JobShapes

_MOST_TOKENS = 512


def shaped_probes(bench: Bench, shapes: JobShapes, precision: str) -> Probes:
    """(name, probe) for every weight and width of the job."""
    dtype = DTYPES[precision]
    for n, k in shapes.matrices:
        yield f"job: product {n} x {k}", _forward(bench, (n, k), shapes.rows, dtype)
        yield f"job: product {n} x {k}, to the input", _to_rows(bench, (n, k), shapes.rows, dtype)
        yield (
            f"job: product {n} x {k}, to the weight",
            _to_weight(bench, (n, k), shapes.rows, dtype),
        )
    yield from _other_probes(bench, shapes, dtype)


def _other_probes(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> Probes:
    """What is no product: norm, gate; router and loss, which are float32 in any job. Attention has
    a module of its own."""
    yield f"job: rms_norm {shapes.hidden}", lambda: _norm(bench, shapes, dtype)
    yield f"job: gate {shapes.inner}", lambda: _gate(bench, shapes, dtype)
    yield f"job: router {shapes.experts}", lambda: _softmax(bench, shapes.experts)
    loss = f"job: cross_entropy {shapes.vocabulary}"
    yield loss, lambda: _cross_entropy(bench, shapes.vocabulary)


# A weight [N, K] meets blocks of every height M: forward, gradient of the rows, gradient of the
# weight.


def _forward(
    bench: Bench, weight: tuple[int, int], rows: Sequence[int], dtype: torch.dtype
) -> Probe:
    n, k = weight
    fewer_n = cut(n, k, bench.most_elements)

    def probe() -> list[Tensor]:
        w = bench.values("w", fewer_n, k, dtype=dtype)
        return [F.linear(bench.values("x", m, k, dtype=dtype), w) for m in rows]

    return probe


def _to_rows(
    bench: Bench, weight: tuple[int, int], rows: Sequence[int], dtype: torch.dtype
) -> Probe:
    n, k = weight
    fewer_k = cut(k, n, bench.most_elements)

    def probe() -> list[Tensor]:
        w = bench.values("w", n, fewer_k, dtype=dtype)
        return [bench.values("dy", m, n, dtype=dtype) @ w for m in rows]

    return probe


def _to_weight(
    bench: Bench, weight: tuple[int, int], rows: Sequence[int], dtype: torch.dtype
) -> Probe:
    n, k = weight
    most = bench.most_elements
    small_n = min(n, cut(n, k, most), 512)
    small_k = min(k, cut(k, n, most), most // 512)

    def probe() -> list[Tensor]:
        products = []
        for m in rows:
            dy = bench.values("dy", m, small_n, dtype=dtype)
            x = bench.values("x", m, small_k, dtype=dtype)
            products.append(dy.t() @ x)
        return products

    return probe


def cut(size: int, other: int, most: int) -> int:
    """`size`, or the largest multiple of 64 with `size * other <= most` (at least 64) where it is
    more."""
    if size * other <= most:
        return size
    largest = most // other // 64 * 64
    return min(size, max(64, largest))


def _norm(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> tuple[Tensor, ...]:
    rows = min(shapes.sequence, _MOST_TOKENS)
    x = bench.leaf("x", rows, shapes.hidden, dtype=dtype)
    w = bench.leaf("w", shapes.hidden, dtype=dtype)
    return bench.with_gradients(F.rms_norm(x, (shapes.hidden,), w, 1e-6), x, w)


def _gate(bench: Bench, shapes: JobShapes, dtype: torch.dtype) -> list[Tensor]:
    """SiLU(gate) * up on blocks of every height: its vector tail falls elsewhere in each."""
    outputs: list[Tensor] = []
    for m in shapes.rows:
        gate = bench.leaf("gate", m, shapes.inner, dtype=dtype)
        up = bench.leaf("up", m, shapes.inner, dtype=dtype)
        outputs += bench.with_gradients(F.silu(gate) * up, gate, up)
    return outputs


def _softmax(bench: Bench, width: int) -> tuple[Tensor, ...]:
    x = bench.leaf("x", 65, width)
    return bench.with_gradients(x.softmax(-1), x)


def _cross_entropy(bench: Bench, width: int) -> tuple[Tensor, ...]:
    x = bench.leaf("x", 7, width)
    return bench.with_gradients(F.cross_entropy(x, bench.ids(7, width), reduction="none"), x)
