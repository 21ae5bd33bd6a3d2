"""Sums, norms and the loss: what adds many values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw, in_float32

_ROWS, _WIDTH = 20, 1003
_EPS = 1e-3  # large enough that another one shows


def sum_cases() -> Iterator[Case]:
    """By dimension, over all, along a row; softmaxes, norms, and the loss."""
    yield from _plain_sums()
    yield from _largest()
    yield from _softmaxes()
    yield from _norms()


def _rows(draw: Draw) -> tuple[Tensor, ...]:
    # Of one sign for the most part: a sum that is kept in half precision stands still then.
    return (draw.values(_ROWS, _WIDTH, low=-0.5, high=2.0),)


def _plain_sums() -> Iterator[Case]:
    summed, single = Exactness.SUMMED, (torch.float32,)
    yield Case("sum of rows", "aten::sum", lambda x: x.sum(-1), _rows, summed, (0,), rows=(0,))
    yield Case("sum of columns", "aten::sum", lambda x: x.sum(0), _rows, summed, (0,))
    yield Case("sum of all", "aten::sum", torch.sum, _rows, summed, (0,))
    yield Case(
        "mean",
        "aten::mean",
        lambda x: x.mean(-1),
        _rows,
        summed,
        (0,),
        rows=(0,),
        composed=in_float32(lambda x: x.sum(-1) / x.shape[-1]),
    )
    yield Case(
        "norm",
        "aten::linalg_vector_norm",
        torch.linalg.vector_norm,
        _rows,
        summed,
        dtypes=single,
        composed=lambda x: x.square().sum().sqrt(),
    )
    yield Case("sum of nothing", "aten::sum", lambda x: x[:0].sum(), _rows, Exactness.MOVED)
    yield from _running_sums()


def _running_sums() -> Iterator[Case]:
    def counts(draw: Draw) -> tuple[Tensor, ...]:
        return (draw.ids(67, below=9),)

    def along(x: Tensor) -> Tensor:
        return x.cumsum(-1)

    single, name = (torch.float32,), "aten::cumsum"
    yield Case("cumsum", name, along, _rows, Exactness.SUMMED, dtypes=single, rows=(0,))
    yield Case("cumsum of whole numbers", name, along, counts, Exactness.MOVED)


def _with_nan(draw: Draw) -> tuple[Tensor, ...]:
    x = (draw.values(_ROWS, 67) * 4).round()
    x[2, 5] = torch.nan
    return (x,)


def _largest() -> Iterator[Case]:
    moved = Exactness.MOVED
    yield Case("amax", "aten::amax", lambda x: x.amax(-1), _with_nan, moved, rows=(0,))
    yield Case(
        "max with its place",
        "aten::max",
        lambda x: tuple(x.max(-1)),
        lambda draw: (draw.order(20 * 67).view(20, 67).double() / 8,),
        moved,
        (0,),
        rows=(0,),
        dtypes=(torch.float32,),
    )
    yield Case(
        "argmax", "aten::argmax", lambda x: x.argmax(-1), _with_nan, moved, dtypes=(torch.float32,)
    )


def _softmaxes() -> Iterator[Case]:
    summed = Exactness.SUMMED

    def scores(draw: Draw) -> tuple[Tensor, ...]:
        return (draw.values(_ROWS, 259, low=-9.0, high=9.0),)

    def with_targets(draw: Draw) -> tuple[Tensor, ...]:
        return (*scores(draw), draw.ids(_ROWS, below=259))

    def plain_softmax(x: Tensor) -> Tensor:
        raised = (x - x.amax(-1, keepdim=True)).exp()
        return raised / raised.sum(-1, keepdim=True)

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(x, target, reduction="none")

    yield Case(
        "softmax",
        "aten::_softmax",
        lambda x: x.softmax(-1),
        scores,
        summed,
        (0,),
        rows=(0,),
        composed=plain_softmax,
    )
    yield Case(
        "log_softmax",
        "aten::_log_softmax",
        lambda x: x.log_softmax(-1),
        scores,
        summed,
        (0,),
        rows=(0,),
        composed=in_float32(_plain_log_softmax),
    )
    yield Case(
        "cross entropy",
        "aten::nll_loss_forward",
        loss,
        with_targets,
        summed,
        (0,),
        rows=(0, 1),
        composed=in_float32(_plain_loss),
    )
    yield Case(
        "mean cross entropy",
        "aten::nll_loss_forward",
        F.cross_entropy,
        with_targets,
        summed,
        (0,),
        composed=in_float32(lambda x, target: _plain_loss(x, target).sum() / len(target)),
    )


def _plain_log_softmax(x: Tensor) -> Tensor:
    centred = x - x.amax(-1, keepdim=True)
    return centred - centred.exp().sum(-1, keepdim=True).log()


def _plain_loss(x: Tensor, target: Tensor) -> Tensor:
    return -_plain_log_softmax(x).gather(-1, target[:, None])[:, 0]


def _norms() -> Iterator[Case]:
    summed = Exactness.SUMMED

    def small(draw: Draw) -> tuple[Tensor, ...]:
        # So small that eps has its part in the result.
        return draw.values(_ROWS, 96, low=-0.1, high=0.1), draw.values(96, low=0.5)

    def with_bias(draw: Draw) -> tuple[Tensor, ...]:
        return (*small(draw), draw.values(96))

    yield Case(
        "layer_norm",
        "aten::native_layer_norm",
        lambda x, w, b: F.layer_norm(x, (96,), w, b, _EPS),
        with_bias,
        summed,
        (0, 1, 2),
        rows=(0,),
        composed=in_float32(_plain_layer_norm),
    )
    yield Case(
        "rms_norm",
        "aten::_fused_rms_norm",
        lambda x, w: F.rms_norm(x, (96,), w, _EPS),
        small,
        summed,
        (0, 1),
        rows=(0,),
        composed=in_float32(_plain_rms_norm),
    )


def _plain_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + _EPS) * weight + bias


def _plain_rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS) * weight
