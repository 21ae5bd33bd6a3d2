"""What travels between attention and experts: a token crosses once for each worker that holds some
of its experts.

To cross to a worker is to be routed to it. So the attention side keeps, beside the routing of slots
to experts, a second routing of tokens to workers, and an experts worker sees what arrived as a
routing of its own: U tokens with K choices, of which those made elsewhere have no row. The
functions of `ops.permute` then serve both sides. For one site and micro-batch, and a worker that
gets R rows of U tokens (bytes: b of a value, w of a weight, s of its gradient):

    ahead of all       its numbers in the count table      to experts     8 * (1 + its experts)
    forward            vectors [U, H], slots [R] int32     to experts     U*H*b + 4*R
       at_experts      and the rows' weights [R]                          + R*w
    outputs
       at_attention    one for each row [R, H]             to attention   R*H*b
       at_experts      weighted sums [U, H]                               U*H*b
    backward           dout [U, H]                         to experts     U*H*b
       at_attention    and the rows' weights [R]                          + R*w
    gradients          of the rows' weights [R]            to attention   R*s
       at_attention    and one for each row [R, H]                        + R*H*b
       at_experts      and sums [U, H]                                    + U*H*b

An identity expert or an index of -1 never leaves. At attention, the forward, the gradients of the
tokens and those of the weights have the bits of one worker's `ops.permute`, wherever the experts
are. At experts, the products and the weights' gradients still have; sums depend on which of a
token's choices went to one worker, since those are added first (and rounded, in half precision).
They do not depend on which worker that is or how workers are numbered: a token's partial sums are
added in the order of the first choice in each. In float32 or wider, a token whose K choices all go
to different workers, or all to one, so gets the bits of `at_attention`.

The gradient of a row's weight, <dout, output>, is a number that the experts' side takes: so neither
side keeps outputs for the backward (`execute.shard`). What the attention side does with rows that
came back, joined worker by worker, is in `ops.permute`: `unpermute`, `permute_backward`, and
`weights_backward`. More of the why: docs/design/dispatch-and-combine.md.

Legend: L lanes; T tokens of a lane, K choices per token, H hidden size, E experts of a worker, D
experts workers; U tokens that cross to one worker, V = the sum of U over the workers; R rows (slots
that go to an expert) of a lane or of one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dougong.accelerators.staging import on_device
from dougong.ops.experts.base import Block
from dougong.ops.permute import (
    Routing,
    SortedSlots,
    permute,
    permute_backward,
    sort_slots,
    sum_by_token,
    weights_of_rows,
)

Combine = Literal["at_attention", "at_experts"]
"""Where a token's expert outputs are weighted and added."""


@dataclass(frozen=True)
class ExpertHolders:
    """Who holds which experts at a site.

    `num_experts`: of each of D workers, which hold them in ascending order; some may hold none.
    `of_expert`: int64 [E + 1], the worker of each expert, and D for a slot without one.
    """

    num_experts: tuple[int, ...]
    of_expert: Tensor

    @classmethod
    def of(cls, num_experts: Sequence[int], device: torch.device) -> ExpertHolders:
        """As it is for a whole generation: the host waits for the device, once."""
        workers = torch.arange(len(num_experts)).repeat_interleave(torch.tensor(num_experts))
        of_expert = torch.cat([workers, torch.tensor([len(num_experts)])]).to(device)
        return cls(tuple(num_experts), of_expert)


@dataclass(frozen=True)
class CrossingPlan:
    """What of one lane's micro-batch goes to each of D workers. The attention side keeps it for all
    that comes back.

    `routing`: slots to experts. `crossing`: tokens to workers, a routing whose "experts" are the
    workers and whose rows are the V vectors, by worker, then token; a token's first choice at a
    worker stands for all of them. `slots_R`: int32; for each row, the place of its token among the
    U of its worker, times K, plus its choice. `tokens_D` and `rows_D`: U and R of each worker.
    """

    routing: Routing
    crossing: Routing
    slots_R: Tensor
    tokens_D: tuple[int, ...]
    rows_D: tuple[int, ...]

    def split_vectors(self, vectors_VH: Tensor) -> tuple[Tensor, ...]:
        """What has one entry for each crossing of a token, by worker: D views [U, ...]."""
        views: tuple[Tensor, ...] = vectors_VH.split(self.tokens_D)
        return views

    def split_rows(self, rows_RH: Tensor) -> tuple[Tensor, ...]:
        """What has one entry for each row, by worker: D views [R, ...]."""
        views: tuple[Tensor, ...] = rows_RH.split(self.rows_D)
        return views


# --------------------------------------------------------------------------------------------------
# The attention side


@dataclass(frozen=True)
class _SortedCrossing:
    """A lane's plan before the host knows its sizes. `slot_TK`: the slot that each choice has at
    its worker."""

    slots: SortedSlots
    crossing: SortedSlots
    slot_TK: Tensor

    def plan(self, ends: Sequence[int], holders: ExpertHolders) -> CrossingPlan:
        """`ends`: those of `slots`, then those of `crossing`."""
        num_experts = len(ends) - len(holders.num_experts)
        routing = self.slots.routing(ends[:num_experts])
        crossing = self.crossing.routing(ends[num_experts:])
        crossing.identity_TK = routing.identity_TK
        slots_R = self.slot_TK.view(-1).index_select(0, routing.order_R).to(torch.int32)
        rows_D = _rows_of_workers(ends[:num_experts], holders.num_experts)
        return CrossingPlan(routing, crossing, slots_R, tuple(crossing.counts_E.tolist()), rows_D)


def plan_crossings(
    indices: Sequence[Tensor], holders: ExpertHolders, has_identity: bool = False
) -> list[CrossingPlan]:
    """Pack the slots of several lanes' choices [T, K] for the workers that hold the experts.

    The host waits for the device once, for the sizes of all of them. The result depends on: the
    choices and who holds which experts (whole numbers).
    """
    found = [_sort_crossing(index_TK, holders, has_identity) for index_TK in indices]
    if not found:
        return []
    sizes = torch.stack([torch.cat([one.slots.ends_E, one.crossing.ends_E]) for one in found])
    pairs = zip(found, sizes.tolist(), strict=True)
    return [one.plan(ends, holders) for one, ends in pairs]


def _sort_crossing(index_TK: Tensor, holders: ExpertHolders, has_identity: bool) -> _SortedCrossing:
    num_experts, num_workers = len(holders.of_expert) - 1, len(holders.num_experts)
    slots = sort_slots(index_TK, num_experts, has_identity)
    index = index_TK.to(torch.int64)
    expert_TK = torch.where((index >= 0) & (index < num_experts), index, num_experts)
    worker_TK = holders.of_expert.index_select(0, expert_TK.view(-1)).view_as(expert_TK)
    choice_K = torch.arange(index_TK.shape[1], device=index_TK.device)
    first_TK = first_choices(worker_TK)
    # A token crosses to a worker by the first of its choices there; the others stand for no vector
    # of their own.
    crossing = sort_slots(torch.where(first_TK == choice_K, worker_TK, -1), num_workers)
    return _SortedCrossing(slots, crossing, _slots_there(crossing, worker_TK, first_TK, choice_K))


def _rows_of_workers(ends_E: Sequence[int], num_experts: Sequence[int]) -> tuple[int, ...]:
    """The rows of each worker, from those of all experts up to each one."""
    ends = [0, *ends_E]
    bounds = [ends[number] for number in accumulate(num_experts, initial=0)]
    return tuple(end - begin for begin, end in pairwise(bounds))


def first_choices(worker_TK: Tensor) -> Tensor:
    """For each choice, the first one of its token at the same worker, [T, K]."""
    # Of equal values `argmax` names the first, and a choice is always at its own worker.
    same_TKK = worker_TK[:, :, None] == worker_TK[:, None, :]
    return same_TKK.to(torch.uint8).argmax(-1)


def _slots_there(
    crossing: SortedSlots, worker_TK: Tensor, first_TK: Tensor, choice_K: Tensor
) -> Tensor:
    """The slot that each choice has at its worker, [T, K]: K times the place of its token among
    those that cross to that worker, plus the choice."""
    before_D = torch.cat([crossing.ends_E.new_zeros(1), crossing.ends_E])
    before_TK = before_D.index_select(0, worker_TK.view(-1)).view_as(worker_TK)
    vector_TK = crossing.position_TK.gather(1, first_TK)
    return (vector_TK - before_TK) * len(choice_K) + choice_K


def pack_tokens(vectors_TH: Tensor, plan: CrossingPlan) -> tuple[Tensor, ...]:
    """The vectors that leave for each worker, D views [U, H]: of the tokens in the forward, of dout
    in the backward.

    The result depends on: the arguments' values; vectors are copied, nothing is computed.
    """
    return plan.split_vectors(permute(vectors_TH, plan.crossing))


def pack_weights(weights_TK: Tensor, plan: CrossingPlan) -> tuple[Tensor, ...]:
    """The weights of the rows for each worker, D views [R]."""
    return plan.split_rows(weights_of_rows(weights_TK, plan.routing))


def add_partial_sums(
    partial_VH: Tensor, vectors_TH: Tensor, weights_TK: Tensor, plan: CrossingPlan
) -> Tensor:
    """`at_experts`: each token's partial sums, all workers' one after another, added up, [T, H] in
    `vectors_TH`'s dtype.

    In the forward `vectors_TH` is the tokens, in the backward dout: a choice that returned the
    token itself contributes `weight * vector` in its place, rounded to `partial_VH`'s dtype as the
    partial sums are. Sums are float32 for half precision.

    The result depends on: the token's own partial sums, added in the order of the first choice in
    each; so on which of its choices share a worker, not on which worker that is.
    """
    return permute_backward(partial_VH, vectors_TH, weights_TK, plan.crossing)


# --------------------------------------------------------------------------------------------------
# The experts side, all lanes of a batch


@dataclass(frozen=True)
class LaneCounts:
    """What all lanes send one worker, lanes in their order: `tokens_L` [L], the tokens that cross,
    and `counts_LE` [L, E], the rows of each of its experts, zeros included; int64. `num_choices`:
    K, at least 1."""

    tokens_L: NDArray[np.int64]
    counts_LE: NDArray[np.int64]
    num_choices: int

    @property
    def rows_by_lane(self) -> NDArray[np.int64]:
        """R of each lane."""
        rows: NDArray[np.int64] = self.counts_LE.sum(1)
        return rows


def routing_of_arrivals(counts: LaneCounts, slots_R: Tensor) -> Routing:
    """What arrived, as a routing: all lanes' tokens, one lane after another, with their K choices.

    Rows lie as a batch's do, by lane, then expert, token and choice. `slots_R`: all lanes' slots,
    int32, in the lanes' order. `permute` with it turns vectors [U, H] into the batch's rows [R, H],
    forward and backward.

    The result depends on: the arguments (whole numbers).
    """
    num_tokens = int(counts.tokens_L.sum())
    order_R = _slots_of_all(counts, slots_R)
    position = _positions(order_R, num_tokens * counts.num_choices)
    counts_E = torch.from_numpy(counts.counts_LE.sum(0))
    position_TK = position.view(num_tokens, counts.num_choices)
    return Routing(order_R, position_TK, counts_E, None, num_tokens, counts.num_choices)


def _slots_of_all(counts: LaneCounts, slots_R: Tensor) -> Tensor:
    """The slots of all lanes' rows, int64 [R]: a lane's count from its own first token, here they
    count from the first lane's."""
    slots_L = counts.tokens_L * counts.num_choices
    first_L = slots_L.cumsum() - slots_L
    both = torch.from_numpy(np.stack([first_L, counts.rows_by_lane]))
    first, rows = on_device(both, slots_R.device)
    by_row: Tensor = first.repeat_interleave(rows, output_size=len(slots_R))
    return slots_R + by_row


def _positions(order_R: Tensor, num_slots: int) -> Tensor:
    """The inverse of an order: the row of every slot. Slots without one point behind the last
    row."""
    positions = order_R.new_full((num_slots,), len(order_R))
    return positions.index_copy_(0, order_R, torch.arange(len(order_R), device=order_R.device))


def blocks_of(
    counts: LaneCounts, lanes: Sequence[int], experts: Sequence[int]
) -> tuple[Block, ...]:
    """The blocks of a batch, `lanes` in the order of their rows. `experts`: those of the worker."""
    sizes = counts.counts_LE.reshape(-1)
    starts = sizes.cumsum() - sizes
    blocks = []
    for place in sizes.nonzero()[0].tolist():
        lane, expert = divmod(place, len(experts))
        start, count = int(starts[place]), int(sizes[place])
        blocks.append(Block(experts[expert], lanes[lane], start, count))
    return tuple(blocks)


def add_outputs(outputs_RH: Tensor, weights_R: Tensor, arrived: Routing) -> Tensor:
    """`at_experts`: the weighted sum of each token's outputs here, in the router's order, [U, H] in
    their dtype.

    Products are in the wider dtype of outputs and weights, sums in float32 for half precision, as
    in `unpermute`.

    The result depends on: the token's own rows here and their weights, and the order of its
    choices.
    """
    return sum_by_token(outputs_RH * weights_R[:, None], arrived, outputs_RH.dtype)


def add_gradients(drows_RH: Tensor, arrived: Routing) -> Tensor:
    """`at_experts`: the sum of the gradients of each token's rows here, in the router's order, [U,
    H] in their dtype.

    The result depends on: the token's own rows here and the order of its choices.
    """
    return sum_by_token(drows_RH, arrived, drows_RH.dtype)
