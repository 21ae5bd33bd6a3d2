"""Operators that move values: by index, by order, by shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.conform.judge import Exactness
from dougong.conform.operators.case import Case, Draw
from dougong.ops.topk import topk_by_index

_MOVED = Exactness.MOVED


def place_cases() -> Iterator[Case]:
    """Gathers and their backwards, sorts and choices, joins and views."""
    yield from _by_index()
    yield from _by_order()
    yield from _by_shape()


def _table(draw: Draw) -> tuple[Tensor, ...]:
    return draw.values(30, 24), draw.ids(41, below=30)


def _by_index() -> Iterator[Case]:
    def embedding(table: Tensor, ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    def selected(table: Tensor, ids: Tensor) -> Tensor:
        return table.index_select(0, ids)

    def gathered(values: Tensor, ids: Tensor) -> Tensor:
        return values.gather(1, ids)

    def scattered(values: Tensor, places: Tensor) -> Tensor:
        return torch.zeros_like(values).scatter(1, places, values)

    def copied(values: Tensor, order: Tensor) -> Tensor:
        return torch.zeros_like(values).index_copy_(0, order, values)

    def added(values: Tensor, ids: Tensor) -> Tensor:
        return torch.zeros_like(values).index_add(0, ids, values)

    def columns(draw: Draw) -> tuple[Tensor, ...]:
        orders = [draw.order(24) for _ in range(16)]
        return draw.values(16, 24), torch.stack(orders)

    def rows(draw: Draw) -> tuple[Tensor, ...]:
        return draw.values(26, 24), draw.order(26)

    summed = Exactness.SUMMED
    yield Case(
        "embedding",
        "aten::embedding",
        embedding,
        _table,
        _MOVED,
        (0,),
        summed,
        rows=(1,),
        composed=selected,
    )
    yield Case(
        "index_select",
        "aten::index_select",
        selected,
        lambda draw: (draw.values(30, 24), draw.order(30)),
        _MOVED,
        (0,),
        rows=(1,),
        by_row=True,
    )
    yield Case("gather", "aten::gather", gathered, columns, _MOVED, (0,), rows=(0, 1))
    yield Case("scatter", "aten::scatter", scattered, columns, _MOVED, (0,), rows=(0, 1))
    yield Case("index_copy_", "aten::index_copy_", copied, rows, _MOVED)
    yield Case(
        "index_add",
        "aten::index_add",
        added,
        lambda draw: (draw.values(26, 24), draw.order(26)),
        _MOVED,
        (0,),
    )
    yield from _counts()


def _counts() -> Iterator[Case]:
    yield Case(
        "bincount",
        "aten::bincount",
        lambda ids: torch.bincount(ids, minlength=12),
        lambda draw: (draw.ids(97, below=9),),
        _MOVED,
        dtypes=(torch.float32,),
    )


def _ties(draw: Draw) -> tuple[Tensor, ...]:
    return ((draw.values(16, 67) * 4).round(),)


def _by_order() -> Iterator[Case]:
    def sorted_stable(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.sort(x, dim=-1, stable=True))

    def first_sorted(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[:, :8] for part in torch.sort(x, dim=-1, descending=True))

    def all_different(draw: Draw) -> tuple[Tensor, ...]:
        return (draw.order(16 * 67).view(16, 67).double() / 4,)

    yield Case("sort", "aten::sort", sorted_stable, _ties, _MOVED, (0,), rows=(0,))
    yield Case(
        "argsort",
        "aten::sort",
        lambda x: torch.argsort(x, dim=-1, stable=True, descending=True),
        _ties,
        _MOVED,
        rows=(0,),
    )
    yield Case(
        "topk",
        "aten::topk",
        lambda x: tuple(x.topk(8, dim=-1)),
        all_different,
        _MOVED,
        (0,),
        rows=(0,),
        dtypes=(torch.float32,),
        composed=first_sorted,
    )
    yield Case(
        "topk by the lower index",
        "aten::topk",
        lambda x: tuple(topk_by_index(x, 8)),
        _ties,
        _MOVED,
        (0,),
        rows=(0,),
    )


def _by_shape() -> Iterator[Case]:
    def joined(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.cat([x, y]), torch.cat([x, y[:0]]), torch.stack([x, y], 1)

    def turned(x: Tensor) -> tuple[Tensor, ...]:
        return (
            x.t().contiguous(),
            x.view(4, 6, 5).permute(2, 0, 1).contiguous(),
            x[::2, 1:].contiguous(),
            x[:1].expand(3, -1).contiguous(),
        )

    def filled(x: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.zeros_like(x),
            torch.full_like(x, 3.0),
            torch.arange(x.shape[0], device=x.device),
            torch.ones_like(x).tril(),
        )

    def in_place(x: Tensor) -> Tensor:
        held = x.clone()
        held[1:3].mul_(2.0)
        held.t()[4].zero_()
        return held

    def block(draw: Draw) -> tuple[Tensor, ...]:
        return (draw.values(24, 5),)

    yield Case(
        "cat",
        "aten::cat",
        joined,
        lambda draw: (draw.values(5, 9), draw.values(5, 9)),
        _MOVED,
        (0, 1),
    )
    yield Case("transposed, sliced and expanded copies", "aten::clone", turned, block, _MOVED, (0,))
    yield Case("fills", "aten::fill_", filled, block, _MOVED)
    yield Case("writes through views", "aten::mul_", in_place, block, _MOVED)
