"""What a step is made of in larger pieces: attention, positions, the optimizer.

Legend: B sequences, N heads, T tokens, D size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw
from dougong.fingerprint.attention import TIMES, eager

_LR, _BETA1, _BETA2, _DECAY, _EPS = 1e-2, 0.9, 0.95, 0.1, 1e-8


def block_cases() -> Iterator[Case]:
    """Attention in torch's fused form, rotary positions, and the update of weights."""
    yield Case(
        "attention",
        "aten::_scaled_dot_product",
        _attention,
        lambda draw: tuple(draw.values(2, 3, 65, 16) for _ in range(3)),
        Exactness.PRODUCT,
        (0, 1, 2),
        rows=(0, 1, 2),
        composed=eager,
        times=TIMES,
    )
    yield Case("rotary", "aten::mul", _rotary, _rotated, Exactness.SUMMED, (0,))
    update = partial(
        Case,
        inputs=_state,
        exactness=Exactness.EACH,
        dtypes=(torch.float32,),
        spread=False,
    )
    yield update("fused AdamW", "aten::_fused_adamw", _fused_adamw, composed=_plain_adamw)
    yield update("foreach arithmetic", "aten::_foreach", _foreach, composed=_one_by_one)


def _attention(q_BNTD: Tensor, k_BNTD: Tensor, v_BNTD: Tensor) -> Tensor:
    mixed: Tensor = F.scaled_dot_product_attention(q_BNTD, k_BNTD, v_BNTD, is_causal=True)
    return mixed


def _rotated(draw: Draw) -> tuple[Tensor, ...]:
    angles = draw.values(1, 1, 12, 8, low=-3.0, high=3.0)
    angles = torch.cat([angles, angles], -1)
    return draw.values(2, 3, 12, 16), angles.cos(), angles.sin()


def _rotary(x_BNTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Su et al. 2021, arXiv 2104.09864, eq. 34, by halves as transformers' families have it."""
    first, second = x_BNTD.chunk(2, -1)
    return x_BNTD * cos + torch.cat([-second, first], -1) * sin


def _state(draw: Draw) -> tuple[Tensor, ...]:
    """Weight, gradient, and both moments."""
    moments = draw.values(7, 33), draw.values(7, 33, low=0.01)
    return draw.values(7, 33, low=0.5), draw.values(7, 33, low=0.5), *moments


def _fused_adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    if p.dtype == torch.float64:
        return _plain_adamw(p, g, m, v)
    p, m, v = p.clone(), m.clone(), v.clone()
    step = torch.full((), 3.0, device=p.device)
    torch._fused_adamw_(
        [p], [g], [m], [v], [], [step],
        lr=_LR, beta1=_BETA1, beta2=_BETA2, weight_decay=_DECAY, eps=_EPS,
        amsgrad=False, maximize=False,
    )  # fmt: skip
    return p, m, v


def _plain_adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, at the third step."""
    m = m * _BETA1 + g * (1 - _BETA1)
    v = v * _BETA2 + g * g * (1 - _BETA2)
    size = (v / (1 - _BETA2**3)).sqrt() + _EPS
    return p * (1 - _LR * _DECAY) - _LR * (m / (1 - _BETA1**3)) / size, m, v


def _foreach(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    sums = torch._foreach_add([p, g], [m, v])
    products = torch._foreach_mul([p, g], 0.5)
    copies = [torch.empty_like(p), torch.empty_like(g)]
    torch._foreach_copy_(copies, [m, v])
    return *sums, *products, *copies, *torch._foreach_norm([p, g])


def _one_by_one(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    sums, products = (p + m, g + v), (p * 0.5, g * 0.5)
    copies = [torch.empty_like(p), torch.empty_like(g)]
    for copy, source in zip(copies, (m, v), strict=True):
        copy.copy_(source)
    return *sums, *products, *copies, p.norm(), g.norm()
