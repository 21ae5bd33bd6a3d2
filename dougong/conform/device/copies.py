"""Copies between a device and the host, and within a device: their values, and when they are
there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dougong.conform.check import CPU, Bed, Check, method, need_streams, require
from dougong.conform.judge import same_bits
from dougong.conform.operators.case import Draw
from dougong.conform.record import COPIES

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
MANY = 1 << 16


def copy_checks() -> Iterator[Check]:
    """In the order in which one rests on the other."""
    yield method("copy to the device and back", COPIES, "Tensor.to", _there_and_back)
    yield method("copies of nothing", COPIES, "Tensor.to", _nothing)
    yield method("copy of strided values to the device", COPIES, "Tensor.copy_", _strided_in)
    yield method("copy of strided values to the host", COPIES, "Tensor.copy_", _strided_out)
    yield method("copy within the device", COPIES, "Tensor.copy_", _within)
    yield method(
        "a copy has read its source when it returns", COPIES, "Tensor.copy_", _source_is_free
    )
    yield method("pinned memory", COPIES, "Tensor.pin_memory", _pinned)
    yield method("a number to the host", COPIES, "Tensor.item", _item)


def patterns() -> Iterator[Tensor]:
    """Values of every type, [6, 10]; floats with NaN, infinities, the smallest, and both zeros."""
    draw = Draw()
    for dtype in DTYPES:
        if not dtype.is_floating_point:
            yield draw.ids(6, 10, below=2 if dtype == torch.bool else 250).to(dtype)
            continue
        values = draw.values(6, 10).to(dtype)
        values[0, :5] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-40])
        yield values


def _there_and_back(bed: Bed) -> None:
    for values in patterns():
        back = values.to(bed.device, copy=True).to(CPU)
        require(same_bits(back, values), f"{values.dtype}: other bits after the way there and back")


def _nothing(bed: Bed) -> None:
    for shape in ((0,), (3, 0), (0, 5)):
        there = torch.empty(shape).to(bed.device)
        require(tuple(there.shape) == shape, f"shape {tuple(there.shape)} of {shape} values")
        back = torch.empty(shape).copy_(there)
        require(back.numel() == 0, "values of an empty tensor")


def _strided_in(bed: Bed) -> None:
    for values in patterns():
        for view in views(values):
            found = torch.empty(view.shape, dtype=view.dtype, device=bed.device).copy_(view)
            _expect(found, view, "values that lie apart on the host")


def _strided_out(bed: Bed) -> None:
    for values in patterns():
        there = values.to(bed.device)
        for view, expected in zip(views(there), views(values), strict=True):
            found = torch.empty(view.shape, dtype=view.dtype).copy_(view)
            _expect(found, expected, "values that lie apart on the device")


def _within(bed: Bed) -> None:
    for values in patterns():
        there = values.to(bed.device)
        for view, expected in zip(views(there), views(values), strict=True):
            target = torch.zeros(view.t().shape, dtype=view.dtype, device=bed.device).t()
            _expect(target.copy_(view), expected, "a copy into a transposed tensor")
            _expect(view.contiguous(), expected, "a contiguous copy")


def views(values: Tensor) -> list[Tensor]:
    """The same tensor whole, transposed, with gaps, and one row again and again."""
    return [values, values.t(), values[::2, 1::3], values[:1].expand(4, -1)]


def _expect(found: Tensor, expected: Tensor, what: str) -> None:
    require(
        same_bits(found.to(CPU), expected.contiguous()), f"{expected.dtype}: {what}: other values"
    )


def _source_is_free(bed: Bed) -> None:
    host = torch.ones(MANY)
    there = host.to(bed.device, copy=True)
    host.fill_(7)
    require(bool(there.to(CPU).eq(1).all()), "the host's memory was read after the copy returned")
    target = torch.empty(MANY, device=bed.device)
    target.copy_(host)
    host.fill_(3)
    require(bool(target.to(CPU).eq(7).all()), "the host's memory was read after the copy returned")


def _pinned(bed: Bed) -> None:
    need_streams(bed)
    host = torch.arange(MANY).pin_memory()
    require(host.is_pinned(), "what was pinned does not say so")
    require(not torch.arange(4).is_pinned(), "what was not pinned says that it is")
    require(bool(host.eq(torch.arange(MANY)).all()), "other values in pinned memory")


def _item(bed: Bed) -> None:
    half = torch.full((), 0.5, device=bed.device)
    require(half.item() == 0.5, "another number was read than the one written before")
