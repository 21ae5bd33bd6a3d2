"""The general probes: kernels whose bits are known to move, at sizes where they do.

Sums long enough to be split between threads (K >= 1000), counts that leave a tail behind the vector
body, one row (a product of its own kind), ties, and forward and backward of all. What moves with
what was measured on x86 with MKL and oneDNN: threads move LayerNorm's weight gradient, whole sums
and SiLU's tail; vector width moves softmax, attention and element-wise functions; a library's mode
moves products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.fingerprint.bench import DTYPES, Bench, Probe, Probes

_PRODUCTS = ((37, 512, 512), (200, 2048, 256))
_TAIL = 100003


def general_probes(bench: Bench, precisions: tuple[str, ...]) -> Probes:
    """(name, probe) of everything that does not depend on a job."""
    for precision in precisions:
        for name, probe in _in_one_precision(bench, DTYPES[precision]):
            yield f"{name} {precision}", probe
    yield from _once(bench)


def _in_one_precision(bench: Bench, dtype: torch.dtype) -> Probes:
    for group in (_products, _attention, _norms, _elements, _sums, _scatters):
        yield from group(bench, dtype)


def _products(bench: Bench, dtype: torch.dtype) -> Probes:
    for rows, inner, columns in _PRODUCTS:
        x = bench.values("x", rows, inner, dtype=dtype)
        w = bench.values("w", columns, inner, dtype=dtype)
        dy = bench.values("dy", rows, columns, dtype=dtype)
        yield f"product K={inner}", _pure(F.linear, x, w)
        yield f"product K={inner}, to the input", _pure(torch.mm, dy, w)
        yield f"product K={inner}, to the weight", _pure(torch.mm, dy.t(), x)
    yield "product of one row", _one_row(bench, dtype)


def _one_row(bench: Bench, dtype: torch.dtype) -> Probe:
    x = bench.values("x", 1, 512, dtype=dtype)
    w = bench.values("w", 512, 512, dtype=dtype)
    return _pure(F.linear, x, w)


def _attention(bench: Bench, dtype: torch.dtype) -> Probes:
    def probe() -> tuple[Tensor, ...]:
        q, k, v = (bench.leaf(name, 1, 2, 261, 64, dtype=dtype) for name in "qkv")
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return bench.with_gradients(output, q, k, v)

    yield "attention", probe


def _norms(bench: Bench, dtype: torch.dtype) -> Probes:
    def probe(norm: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        x = bench.leaf("x", 513, 100, dtype=dtype)
        w = bench.leaf("w", 100, dtype=dtype)
        return bench.with_gradients(norm(x, w), x, w)

    yield "rms_norm", lambda: probe(lambda x, w: F.rms_norm(x, (100,), w, 1e-6))
    yield "layer_norm", lambda: probe(lambda x, w: F.layer_norm(x, (100,), w))


def _elements(bench: Bench, dtype: torch.dtype) -> Probes:
    def probe(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        x = bench.leaf("x", _TAIL, dtype=dtype)
        return bench.with_gradients(function(x), x)

    yield "silu", lambda: probe(F.silu)
    yield "gelu", lambda: probe(F.gelu)
    yield "sigmoid", lambda: probe(torch.sigmoid)
    yield "exp", _pure(torch.exp, bench.values("x", _TAIL, dtype=dtype))
    yield "rsqrt", _pure(lambda x: torch.rsqrt(x * x + 1e-6), bench.values("x", _TAIL, dtype=dtype))


def _sums(bench: Bench, dtype: torch.dtype) -> Probes:
    def softmax() -> tuple[Tensor, ...]:
        x = bench.leaf("x", 65, 1003, dtype=dtype)
        return bench.with_gradients(x.softmax(-1), x)

    yield "softmax", softmax
    yield "sum", _pure(torch.sum, bench.values("x", 1000003, dtype=dtype))
    yield "sum of columns", _pure(lambda x: x.sum(0), bench.values("x", 4001, 64, dtype=dtype))


def _scatters(bench: Bench, dtype: torch.dtype) -> Probes:
    ids = bench.ids(4096, 64)

    def embedding() -> tuple[Tensor, ...]:
        w = bench.leaf("w", 64, 64, dtype=dtype)
        return bench.with_gradients(F.embedding(ids, w), w)

    def index_add() -> tuple[Tensor, ...]:
        rows = bench.values("x", 4096, 64, dtype=dtype)
        return (torch.zeros_like(rows[:64]).index_add_(0, ids, rows),)

    yield "embedding", embedding
    yield "index_add", index_add


def _once(bench: Bench) -> Probes:
    """What a job computes in float32 whatever its precision, and what has no precision."""

    def cross_entropy() -> tuple[Tensor, ...]:
        x = bench.leaf("x", 129, 1003)
        return bench.with_gradients(F.cross_entropy(x, bench.ids(129, 1003), reduction="none"), x)

    def adamw() -> tuple[Tensor, ...]:
        p = bench.leaf("p", 10007)
        optimizer = torch.optim.AdamW([p], lr=1e-3, fused=True)
        for step in range(3):
            p.grad = bench.values(f"g{step}", 10007)
            optimizer.step()
        return (p,)

    def ties() -> tuple[Tensor, ...]:
        x = (bench.values("t", 64, 64) * 4).round()
        top = x.topk(8)
        return (top.values, top.indices, torch.argsort(x, dim=1, stable=True))

    yield "cross_entropy float32", cross_entropy
    yield "adamw float32", adamw
    yield "ties in topk and sort", ties
    yield "random uniform", lambda: (_random(bench, torch.rand),)
    yield "random normal", lambda: (_random(bench, torch.randn),)


def _random(bench: Bench, draw: Callable[..., Tensor]) -> Tensor:
    generator = torch.Generator(bench.device).manual_seed(7)
    return draw(4099, generator=generator, device=bench.device)


def _pure(function: Callable[..., Tensor], *inputs: Tensor) -> Probe:
    return lambda: (function(*inputs),)
