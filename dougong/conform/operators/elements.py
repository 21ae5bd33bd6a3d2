"""Operators that compute each value by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw

_OF_WAVES = ("add", "mul")
"""What experts compute of all rows of a wave at once."""
_ROWS, _WIDTH = 18, 37  # a tail behind every vector width


def element_cases() -> Iterator[Case]:
    """Activations, arithmetic, comparisons and casts."""
    yield from _activations()
    yield from _arithmetic()
    yield from _comparisons()
    yield from _casts()


def _one(draw: Draw) -> tuple[Tensor, ...]:
    return (draw.values(_ROWS, _WIDTH, low=-6.0, high=6.0),)


def _positive(draw: Draw) -> tuple[Tensor, ...]:
    return (draw.values(_ROWS, _WIDTH, low=0.01, high=9.0),)


def _two(draw: Draw) -> tuple[Tensor, ...]:
    return draw.values(_ROWS, _WIDTH), draw.values(_ROWS, _WIDTH, low=0.5)


def _activations() -> Iterator[Case]:
    each = Exactness.EACH

    def plain_silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def gelu_tanh(x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")

    yield Case(
        "silu",
        "aten::silu",
        F.silu,
        _one,
        each,
        (0,),
        Exactness.SUMMED,
        rows=(0,),
        by_row=True,
        composed=plain_silu,
    )
    yield Case("gelu", "aten::gelu", F.gelu, _one, Exactness.SUMMED, (0,), rows=(0,))
    yield Case("gelu by tanh", "aten::gelu", gelu_tanh, _one, Exactness.SUMMED, (0,), rows=(0,))
    yield Case(
        "sigmoid", "aten::sigmoid", torch.sigmoid, _one, each, (0,), Exactness.SUMMED, rows=(0,)
    )
    yield Case("relu", "aten::relu", F.relu, _one, Exactness.MOVED, (0,), rows=(0,))
    yield Case("softplus", "aten::softplus", F.softplus, _one, each, (0,), rows=(0,))


def _arithmetic() -> Iterator[Case]:
    each = Exactness.EACH
    two = {"add": torch.add, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum}
    for name, function in two.items():
        yield Case(
            name,
            f"aten::{name}",
            function,
            _two,
            each,
            (0, 1),
            rows=(0, 1),
            by_row=name in _OF_WAVES,
        )
    one = {"exp": torch.exp, "sin": torch.sin, "cos": torch.cos, "neg": torch.neg}
    for name, function in one.items():
        yield Case(name, f"aten::{name}", function, _one, each, (0,), rows=(0,))
    for name, function in {"rsqrt": torch.rsqrt, "sqrt": torch.sqrt, "log": torch.log}.items():
        yield Case(name, f"aten::{name}", function, _positive, each, (0,), rows=(0,))
    yield Case("pow", "aten::pow", lambda x: x.pow(2), _one, each, (0,), rows=(0,))
    yield Case(
        "a broadcast sum",
        "aten::add",
        torch.add,
        lambda draw: (draw.values(_ROWS, _WIDTH), draw.values(1, _WIDTH)),
        each,
        rows=(0,),
    )
    yield Case(
        "an expanded factor",
        "aten::mul",
        lambda x, weight: x * weight[:, None].expand_as(x),
        lambda draw: (draw.values(_ROWS, _WIDTH), draw.values(_ROWS)),
        each,
        rows=(0, 1),
    )


def _special(draw: Draw) -> tuple[Tensor, ...]:
    """Values with their like among them, and with NaN, infinities and both zeros."""
    x = (draw.values(_ROWS, _WIDTH) * 2).round()
    x[0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0], dtype=x.dtype)
    return x, x.roll(1, 1)


def _comparisons() -> Iterator[Case]:
    moved = Exactness.MOVED
    functions = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "ge": torch.ge}
    for name, function in functions.items():
        yield Case(name, f"aten::{name}", function, _special, moved, rows=(0, 1))
    yield Case("isnan", "aten::isnan", lambda x, _: x.isnan(), _special, moved)
    yield Case(
        "isfinite",
        "aten::eq",
        lambda x, _: torch.isfinite(x),
        _special,
        moved,
        dtypes=(torch.float32,),
    )
    yield Case(
        "bool operators",
        "aten::bitwise_and",
        lambda x, y: ((x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0), (x > 0) ^ (y > 0)),
        _special,
        moved,
    )
    yield Case(
        "where",
        "aten::where",
        lambda x, y: torch.where(y > 0, x, y),
        _two,
        moved,
        (0, 1),
        rows=(0, 1),
    )
    yield Case(
        "masked_fill",
        "aten::masked_fill",
        lambda x, y: x.masked_fill(y > 1, -1.0),
        _two,
        moved,
        (0,),
    )


def _casts() -> Iterator[Case]:
    moved = Exactness.MOVED

    def tails(draw: Draw) -> tuple[Tensor, ...]:
        """Values whose bits do not fit into half precision, halves between two of them too."""
        x = draw.values(_ROWS, _WIDTH, low=-900.0, high=900.0)
        x[0, :3] = torch.tensor([1.00390625, 1.01171875, -1.00390625], dtype=x.dtype)
        return (x,)

    def to_half(x: Tensor) -> tuple[Tensor, ...]:
        return x.to(torch.bfloat16), x.to(torch.float16)

    yield Case(
        "cast to half precision", "aten::_to_copy", to_half, tails, moved, dtypes=(torch.float32,)
    )
    yield Case(
        "cast to float32",
        "aten::_to_copy",
        lambda x: x.float(),
        tails,
        moved,
        dtypes=(torch.bfloat16,),
    )
    yield Case(
        "cast to whole numbers",
        "aten::_to_copy",
        lambda x: x.to(torch.int64),
        tails,
        moved,
        dtypes=(torch.float32,),
    )
