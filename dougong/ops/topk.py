"""The k largest scores, ties broken by the lower index: the same choice on every device.

`torch.topk` promises nothing about equal values, and equal they are: in bfloat16 a router's logits
collide in one row of six, and a sparse attention's indexer scores many keys exactly 0. Which of
them is taken then depends on the kernel, its batch and its device (docs/design/determinism.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from dougong.errors import ModelError

# dtype -> integers of the same width, and their largest value: all bits but the sign's.
_BITS = {
    torch.float32: (torch.int32, 0x7FFFFFFF),
    torch.bfloat16: (torch.int16, 0x7FFF),
    torch.float16: (torch.int16, 0x7FFF),
}


def topk_by_index(scores: Tensor, k: int, dim: int = -1) -> tuple[Tensor, Tensor]:
    """The `k` largest of `scores` along `dim`, largest first: values (their own bits) and int64
    indices.

    Of equal values the lower index comes first; 0.0 and -0.0 are equal, NaN is the largest value,
    as in `torch.topk`. Differentiable once: the gradient of a value goes to the score that it came
    from, nothing is added.

    The result depends on: the values along `dim`, nothing else. Not on the device, the thread
    count, the other rows, strides, or `torch.topk`'s own way with ties: it is only asked about
    numbers that are all different.
    """
    values, indices = _TopK.apply(scores, k, dim)  # type: ignore[no-untyped-call]
    return values, indices


class _TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        indices = _choose(scores, k, dim)
        ctx.save_for_backward(indices)
        ctx.shape, ctx.dim = scores.shape, dim
        ctx.mark_non_differentiable(indices)
        return scores.gather(dim, indices), indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dvalues: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        return dvalues.new_zeros(ctx.shape).scatter(ctx.dim, indices, dvalues), None, None


def _choose(scores: Tensor, k: int, dim: int) -> Tensor:
    if scores.dtype not in _BITS:  # the definition; two to four times slower than the keys
        return torch.sort(scores, dim=dim, descending=True, stable=True).indices.narrow(dim, 0, k)
    return torch.topk(_keys(scores.detach(), dim), k, dim=dim, sorted=True).indices


def _keys(scores: Tensor, dim: int) -> Tensor:
    """int64, all different along `dim`, in the order of (score, lower index first)."""
    integers, largest = _BITS[scores.dtype]
    bits = (scores + 0.0).view(integers)  # adding 0.0 makes -0.0 positive and changes nothing else
    # Read as integers, positive floats are in order already, and negative ones in the opposite
    # order: there, all bits but the sign's are turned over.
    ordered = torch.where(bits < 0, bits ^ largest, bits).masked_fill_(scores.isnan(), largest)
    # Room for the index below each score: score * count + (count - 1 - index). Scores take 32 bits
    # at most, so that int64 holds rows of up to 2**31 scores.
    count = scores.shape[dim]
    shape = [1] * scores.dim()
    shape[dim] = count
    lower_first = torch.arange(count - 1, -1, -1, device=scores.device).view(shape)
    return ordered.to(torch.int64).mul_(count).add_(lower_first)


class TiesByIndex(TorchFunctionMode):
    """While entered, `torch.topk` and `Tensor.topk` are `topk_by_index` in this thread.

    May be entered again inside. Greenlets share a thread's modes: code that switches to another one
    does so inside `suspended()`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def __enter__(self) -> TiesByIndex:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._depth += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Leave it as often as it was entered, and enter it as often again at the end, also after
        an error."""
        depth = self._depth
        for _ in range(depth):
            self.__exit__(None, None, None)
        try:
            yield
        finally:
            for _ in range(depth):
                self.__enter__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.topk or func is Tensor.topk:
            return torch.return_types.topk(_like_torch_topk(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _like_torch_topk(
    input: Tensor,  # noqa: A002  (torch's names, by which it may be called)
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
    *,
    out: Any = None,
) -> tuple[Tensor, Tensor]:
    """`torch.topk`'s arguments. `sorted=False` leaves the order open there; it is sorted all the
    same, for the order of the sums that follow."""
    if not largest or out is not None:
        raise ModelError(
            f"the model's router calls topk with largest={largest}, "
            f"out={None if out is None else 'given'}; ties are broken by index for the largest "
            "values only; this family is not supported"
        )
    return topk_by_index(input, k, dim)
