"""Operators that compute each value by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Compute, Draw, in_float32

Named = dict[str, Compute]
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
    summed = Exactness.SUMMED
    by_erf, by_tanh = in_float32(_plain_gelu), in_float32(_plain_gelu_tanh)
    yield Case("gelu", "aten::gelu", F.gelu, _one, summed, (0,), rows=(0,), composed=by_erf)
    yield Case(
        "gelu by tanh", "aten::gelu", gelu_tanh, _one, summed, (0,), rows=(0,), composed=by_tanh
    )
    yield Case(
        "sigmoid",
        "aten::sigmoid",
        torch.sigmoid,
        _one,
        each,
        (0,),
        summed,
        rows=(0,),
        composed=in_float32(lambda x: 1 / (1 + torch.exp(-x))),
    )
    yield Case("relu", "aten::relu", F.relu, _one, Exactness.MOVED, (0,), rows=(0,))
    yield Case(
        "softplus",
        "aten::softplus",
        F.softplus,
        _one,
        each,
        (0,),
        rows=(0,),
        composed=in_float32(lambda x: torch.log(1 + torch.exp(x))),
    )


def _plain_gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2; so below."""
    return x * 0.5 * (1 + torch.erf(x * 0.5**0.5))


def _plain_gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def _arithmetic() -> Iterator[Case]:
    each = Exactness.EACH
    two: Named = {"add": torch.add, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum}
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
    one: Named = {
        "exp": torch.exp,
        "sin": torch.sin,
        "cos": torch.cos,
        "neg": torch.neg,
        "pow": _square,
    }
    for name, function in one.items():
        yield Case(name, f"aten::{name}", function, _one, each, (0,), rows=(0,))
    roots: Named = {"rsqrt": torch.rsqrt, "sqrt": torch.sqrt, "log": torch.log}
    for name, function in roots.items():
        yield Case(name, f"aten::{name}", function, _positive, each, (0,), rows=(0,))
    yield from _of_two_shapes()


def _square(x: Tensor) -> Tensor:
    return x.pow(2)


def _of_two_shapes() -> Iterator[Case]:
    def added(draw: Draw) -> tuple[Tensor, ...]:
        return draw.values(_ROWS, _WIDTH), draw.values(1, _WIDTH)

    def weighted(draw: Draw) -> tuple[Tensor, ...]:
        return draw.values(_ROWS, _WIDTH), draw.values(_ROWS)

    def weigh(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight[:, None].expand_as(x)

    each = Exactness.EACH
    yield Case("a broadcast sum", "aten::add", torch.add, added, each, rows=(0,))
    yield Case("an expanded factor", "aten::mul", weigh, weighted, each, rows=(0, 1))


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
    single = (torch.float32,)
    yield Case(
        "isfinite", "aten::eq", lambda x, _: torch.isfinite(x), _special, moved, dtypes=single
    )
    yield Case("bool operators", "aten::bitwise_and", _by_bits, _special, moved)
    yield Case("where", "aten::where", _chosen, _two, moved, (0, 1), rows=(0, 1))
    chosen = _filled_by_where
    yield Case("masked_fill", "aten::masked_fill", _filled, _two, moved, (0,), composed=chosen)


def _by_bits(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    one, other = x > 0, y > 0
    return one & other, one | other, ~one, one ^ other


def _chosen(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, x, y)


def _filled(x: Tensor, y: Tensor) -> Tensor:
    return x.masked_fill(y > 1, -1.0)


def _filled_by_where(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 1, -1.0, x)


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
