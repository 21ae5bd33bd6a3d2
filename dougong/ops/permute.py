"""Rows out to experts and back: gathers and ordered additions, forward and backward. No atomics, no
scatter.

Every function takes one lane's micro-batch, so what it computes depends on that alone. A *slot* is
one (token, choice) pair. Legend: T tokens, K choices per token, E experts, H hidden size, R rows =
slots that go to an expert, sorted by (expert, token, choice), P rows followed by one of zeros where
some slot has none.

Why no scatter: an addition into places that an index names has no order of its own, so its float
sums may differ from run to run. Here every token reads its K rows instead, and adds them in the
router's order (docs/design/determinism.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Routing:
    """Where each slot of one lane's micro-batch goes.

    `order_R`: slot of each row; `position_TK`: row of each slot (R for a slot without a row);
    `counts_E`: rows per expert, on the CPU; `identity_TK`: slots whose output is the token itself
    (or None).
    """

    order_R: Tensor
    position_TK: Tensor
    counts_E: Tensor
    identity_TK: Tensor | None
    num_tokens: int
    num_choices: int

    @property
    def num_rows(self) -> int:
        return self.order_R.numel()

    @property
    def is_partial(self) -> bool:
        """Whether some slot has no row (no expert, or one that computes nothing)."""
        return self.num_rows < self.num_tokens * self.num_choices


@dataclass(frozen=True)
class SortedSlots:
    """A routing of one lane's micro-batch before the host knows how many rows it has: everything
    lies on the device of the router's choices.

    `order_N`: all T*K slots, those of the first expert first, those without a row last; `ends_E`:
    the rows of all experts up to each one, it included; `position_TK` and `identity_TK`: as in
    `Routing`.
    """

    order_N: Tensor
    ends_E: Tensor
    position_TK: Tensor
    identity_TK: Tensor | None

    def routing(self, ends_E: Sequence[int]) -> Routing:
        """`ends_E`: its own, where the host can read them."""
        num_rows = ends_E[-1] if len(ends_E) else 0
        counts_E = torch.tensor([0, *ends_E], dtype=torch.int64).diff()
        order_R = self.order_N[:num_rows]
        return Routing(
            order_R, self.position_TK, counts_E, self.identity_TK, *self.position_TK.shape
        )


def sort_slots(index_TK: Tensor, num_experts: int, has_identity: bool = False) -> SortedSlots:
    """Sort slots by expert; slots of one expert stay in their order. The host waits for nothing.

    An index of -1 means no expert; from `num_experts` on it means the token itself where the family
    has such experts (`has_identity`), else no expert.

    The result depends on: `index_TK` (whole numbers; a stable sort has one answer).
    """
    slots = index_TK.reshape(-1).to(torch.int64)
    routed = (slots >= 0) & (slots < num_experts)
    # Slots without a row are sorted behind those of the last expert.
    experts, order_N = torch.sort(torch.where(routed, slots, num_experts), stable=True)
    ends_E = torch.searchsorted(experts, _numbers(num_experts, slots.device), right=True)
    position = torch.empty_like(slots)
    position.index_copy_(0, order_N, _numbers(len(slots), slots.device))
    if num_experts:
        position = torch.minimum(position, ends_E[-1])
    else:
        position.zero_()
    identity_TK = (index_TK >= num_experts) if has_identity else None
    return SortedSlots(order_N, ends_E, position.view_as(index_TK), identity_TK)


def make_routing(index_TK: Tensor, num_experts: int, has_identity: bool = False) -> Routing:
    """`sort_slots` and what the host has to know of it: one wait for the device."""
    slots = sort_slots(index_TK, num_experts, has_identity)
    return slots.routing(slots.ends_E.tolist())


def _numbers(count: int, device: torch.device) -> Tensor:
    """0 .. count - 1."""
    return torch.arange(count, device=device)


def permute(hidden_TH: Tensor, routing: Routing) -> Tensor:
    """The rows that leave: token vectors in (expert, token, choice) order, [R, H].

    The result depends on: the arguments' values; rows are copied, nothing is computed.
    """
    return hidden_TH.index_select(0, routing.order_R // routing.num_choices)


def unpermute(
    outputs_RH: Tensor, hidden_TH: Tensor, weights_TK: Tensor, routing: Routing
) -> Tensor:
    """Weighted sum of each token's K outputs, added in the router's order: [T, H] in `hidden_TH`'s
    dtype. The sums are kept in float32 for half-precision inputs.

    The result depends on: the token's own outputs, weights and vector, and the order of its
    choices. Not on other tokens, strides, threads, or the order in which outputs arrived: it is K
    multiplications and additions by element.
    """
    total = _accumulator(hidden_TH)
    outputs_PH = _padded(outputs_RH, routing)
    for choice in range(routing.num_choices):
        output_TH = _choice(outputs_PH, hidden_TH, routing, choice)
        total.add_(output_TH * weights_TK[:, choice, None])
    return total.to(hidden_TH.dtype)


def weights_of_rows(weights_TK: Tensor, routing: Routing) -> Tensor:
    """The weight of each row's slot, [R]."""
    return weights_TK.reshape(-1).index_select(0, routing.order_R)


def weigh_rows(dout_RH: Tensor, weights_R: Tensor) -> Tensor:
    """The gradients of the experts' outputs [R, H], in dout's dtype.

    The result depends on: the element and its row's weight; one multiplication, the same on every
    device.
    """
    return (dout_RH * weights_R[:, None]).to(dout_RH.dtype)


def products_of_rows(dout_RH: Tensor, outputs_RH: Tensor) -> Tensor:
    """The gradient of each row's weight: the inner product of dout and the output, [R] (float32 for
    half precision).

    The result depends on: the row's own values, H, and on how the device sums a contiguous row of
    H products. That was found to depend on nothing else on the CPU, not even on threads
    (tests/ops/test_invariance.py).
    """
    return (dout_RH * outputs_RH).sum(-1, dtype=sum_dtype(dout_RH.dtype))


def weights_backward(
    dweights_R: Tensor, dout_TH: Tensor, hidden_TH: Tensor, weights_TK: Tensor, routing: Routing
) -> Tensor:
    """Gradients of the weights [T, K] (in `weights_TK`'s dtype) from those of the rows' weights.

    A slot without a row gets zero, one that returned the token itself the inner product of dout and
    the token. The result depends on: as in `products_of_rows`.
    """
    dweights_TK = _by_slot(dweights_R, routing)
    if routing.identity_TK is not None:
        dweights_T = products_of_rows(dout_TH, hidden_TH)
        dweights_TK = torch.where(routing.identity_TK, dweights_T[:, None], dweights_TK)
    return dweights_TK.to(weights_TK.dtype)


def permute_backward(
    drows_RH: Tensor, dout_TH: Tensor, weights_TK: Tensor, routing: Routing
) -> Tensor:
    """Gradient of the tokens [T, H]: their K rows' gradients, added in the router's order.

    A choice that returned the token itself contributes `weight * dout` in its place of the order.

    The result depends on: the token's own K rows and the order of its choices. Each row belongs to
    one slot, so this is the gradient of a gather without an addition into places that an index
    names.
    """
    total = _accumulator(dout_TH)
    drows_PH = _padded(drows_RH, routing)
    for choice in range(routing.num_choices):
        part_TH = drows_PH.index_select(0, routing.position_TK[:, choice])
        if routing.identity_TK is not None:
            direct_TH = (dout_TH * weights_TK[:, choice, None]).to(part_TH.dtype)
            part_TH = torch.where(routing.identity_TK[:, choice, None], direct_TH, part_TH)
        total.add_(part_TH)
    return total.to(dout_TH.dtype)


def sum_by_token(rows_RH: Tensor, routing: Routing, dtype: torch.dtype) -> Tensor:
    """Each token's rows, added in the router's order, [T, H] in `dtype`; sums are float32 for a
    half-precision `dtype`.

    The result depends on: the token's own rows and the order of its choices.
    """
    total_TH = rows_RH.new_zeros(routing.num_tokens, rows_RH.shape[1], dtype=sum_dtype(dtype))
    rows_PH = _padded(rows_RH, routing)
    for choice in range(routing.num_choices):
        total_TH.add_(rows_PH.index_select(0, routing.position_TK[:, choice]))
    return total_TH.to(dtype)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over `dtype` are kept in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _accumulator(like_TH: Tensor) -> Tensor:
    return torch.zeros_like(like_TH, dtype=sum_dtype(like_TH.dtype))


def _choice(outputs_PH: Tensor, hidden_TH: Tensor, routing: Routing, choice: int) -> Tensor:
    output_TH = outputs_PH.index_select(0, routing.position_TK[:, choice])
    if routing.identity_TK is None:
        return output_TH
    return torch.where(routing.identity_TK[:, choice, None], hidden_TH, output_TH)


def _padded(rows_RH: Tensor, routing: Routing) -> Tensor:
    """The rows, followed by one row of zeros for slots that have none."""
    if not routing.is_partial:
        return rows_RH
    return torch.cat([rows_RH, rows_RH.new_zeros(1, rows_RH.shape[1])])


def _by_slot(values_R: Tensor, routing: Routing) -> Tensor:
    if routing.is_partial:
        values_R = torch.cat([values_R, values_R.new_zeros(1)])
    return values_R.index_select(0, routing.position_TK.reshape(-1)).view_as(routing.position_TK)
