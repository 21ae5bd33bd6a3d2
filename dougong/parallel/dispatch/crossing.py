"""What travels between attention and experts: a token crosses once for each worker that holds some
of its experts.

To cross to a worker is to be routed to it. So the attention side keeps, beside the routing of slots
to experts, a second routing of tokens to workers, and an experts worker sees what arrived as a
routing of its own: U tokens with K choices, of which those made elsewhere have no row. The
functions of `ops.permute` then serve both sides. For one site and micro-batch, and a worker that
gets R rows of U tokens (bytes: b of a value, w of a weight, s of its gradient):

    ahead of all       header                              to experts     8 * (2 + its experts)
    forward            vectors [U, H], slots [R] int32     to experts     U*H*b + 4*R
       at_experts      and the rows' weights [R]                          + R*w
    outputs
       at_attention    one for each row [R, H]             to attention   R*H*b
       at_experts      weighted sums [U, H]                               U*H*b
    backward           dout [U, H]                         to experts     U*H*b
       at_attention    and the rows' weights [R]                          + R*w
    gradients
       at_attention    one for each row [R, H]             to attention   R*H*b
       at_experts      sums [U, H], of the weights [R]                    U*H*b + R*s

An identity expert or an index of -1 never leaves. At attention, the forward, the gradients of the
tokens and those of the weights have the bits of one worker's `ops.permute`, wherever the experts
are. At experts, the products and the weights' gradients still have; sums depend on which of a
token's choices went to one worker, since those are added first (and rounded, in half precision).
They do not depend on which worker that is or how workers are numbered: a token's partial sums are
added in the order of the first choice in each. In float32 or wider, a token whose K choices all go
to different workers, or all to one, so gets the bits of `at_attention`.

What the attention side does with rows that came back, joined worker by worker, is in `ops.permute`:
`unpermute`, `permute_backward`, and `weights_backward` with `products_of_rows` (at attention) or
with what arrived (at experts). More of the why: docs/design/dispatch-and-combine.md.

Legend: L lanes; T tokens of a lane, K choices per token, H hidden size, E experts of a worker, D
experts workers; U tokens that cross to one worker, V = the sum of U over the workers; R rows (slots
that go to an expert) of a lane or of one worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from dougong.ops.experts.base import Block
from dougong.ops.permute import (
    Routing,
    make_routing,
    permute,
    permute_backward,
    sum_by_token,
    weights_of_rows,
)

Combine = Literal["at_attention", "at_experts"]
"""Where a token's expert outputs are weighted and added."""


@dataclass(frozen=True)
class Header:
    """The sizes of what one lane sends to one worker; they travel ahead of it as int64 numbers.

    `num_tokens`: U; `num_choices`: K (both 0 for a lane that sends nothing); `counts`: rows of each
    of the worker's experts, in ascending order, zeros included.
    """

    num_tokens: int
    num_choices: int
    counts: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """R."""
        return sum(self.counts)

    def numbers(self) -> list[int]:
        """What travels: U, K, and the rows of each expert."""
        return [self.num_tokens, self.num_choices, *self.counts]

    @classmethod
    def read(cls, numbers: Sequence[int]) -> Header:
        """The inverse of `numbers`."""
        num_tokens, num_choices, *counts = numbers
        return cls(num_tokens, num_choices, tuple(counts))

    @staticmethod
    def num_numbers(num_experts: int) -> int:
        """How many numbers travel to a worker of so many experts."""
        return 2 + num_experts

    @classmethod
    def of_nothing(cls, num_experts: int) -> Header:
        """Of a lane without a micro-batch, to a worker of so many experts."""
        return cls(0, 0, (0,) * num_experts)


@dataclass(frozen=True)
class CrossingPlan:
    """What of one lane's micro-batch goes to each of D workers. The attention side keeps it for all
    that comes back.

    `routing`: slots to experts. `crossing`: tokens to workers, a routing whose "experts" are the
    workers and whose rows are the V vectors, by worker, then token; a token's first choice at a
    worker stands for all of them. `slots_R`: int32; for each row, the place of its token among the
    U of its worker, times K, plus its choice. `headers`: D.
    """

    routing: Routing
    crossing: Routing
    slots_R: Tensor
    headers: tuple[Header, ...]

    def split_vectors(self, vectors_VH: Tensor) -> tuple[Tensor, ...]:
        """What has one entry for each crossing of a token, by worker: D views [U, ...]."""
        views: tuple[Tensor, ...] = vectors_VH.split([header.num_tokens for header in self.headers])
        return views

    def split_rows(self, rows_RH: Tensor) -> tuple[Tensor, ...]:
        """What has one entry for each row, by worker: D views [R, ...]."""
        views: tuple[Tensor, ...] = rows_RH.split([header.num_rows for header in self.headers])
        return views


# --------------------------------------------------------------------------------------------------
# The attention side, one lane


def plan_crossing(routing: Routing, num_experts: Sequence[int]) -> CrossingPlan:
    """Pack a lane's slots for D workers that hold the next `num_experts[d]` experts each; some may
    hold none.

    The result depends on: the routing and who holds which experts (whole numbers).
    """
    counts = _rows_of_workers(routing, num_experts)
    worker_TK = _workers(routing, [sum(rows) for rows in counts])
    choice_K = torch.arange(routing.num_choices, device=worker_TK.device)
    first_TK = _first_choices(worker_TK, choice_K)
    crossing = _cross_once(worker_TK, first_TK == choice_K, len(counts))
    crossing.identity_TK = routing.identity_TK
    headers = _headers(crossing, counts)
    slot_TK = _slots_there(crossing, worker_TK, first_TK, headers)
    slots_R = slot_TK.view(-1).index_select(0, routing.order_R).to(torch.int32)
    return CrossingPlan(routing, crossing, slots_R, headers)


def _rows_of_workers(routing: Routing, num_experts: Sequence[int]) -> list[tuple[int, ...]]:
    """For each worker, the rows of each of its experts."""
    return [tuple(part.tolist()) for part in routing.counts_E.split(list(num_experts))]


def _headers(crossing: Routing, counts: Sequence[tuple[int, ...]]) -> tuple[Header, ...]:
    """D headers: the tokens that cross to each worker, and the rows of each of its experts."""
    num_tokens = crossing.counts_E.tolist()
    headers = []
    for tokens, rows in zip(num_tokens, counts, strict=True):
        headers.append(Header(tokens, crossing.num_choices, rows))
    return tuple(headers)


def _first_choices(worker_TK: Tensor, choice_K: Tensor) -> Tensor:
    """For each choice, the first one of its token at the same worker, [T, K]."""
    same_TKK = worker_TK[:, :, None] == worker_TK[:, None, :]
    return torch.where(same_TKK, choice_K, len(choice_K)).amin(-1)


def _cross_once(worker_TK: Tensor, is_first_TK: Tensor, num_workers: int) -> Routing:
    """Tokens to workers: a token crosses to a worker by the first of its choices there; the others
    stand for no vector of their own."""
    return make_routing(torch.where(is_first_TK, worker_TK, -1), num_workers)


def _slots_there(
    crossing: Routing, worker_TK: Tensor, first_TK: Tensor, headers: Sequence[Header]
) -> Tensor:
    """The slot that each choice has at its worker, [T, K]: K times the place of its token among
    those that cross to that worker, plus the choice."""
    num_tokens = accumulate((header.num_tokens for header in headers), initial=0)
    before_D = torch.tensor(list(num_tokens), device=worker_TK.device)
    before_TK = before_D.index_select(0, worker_TK.view(-1)).view_as(worker_TK)
    vector_TK = crossing.position_TK.gather(1, first_TK)
    choice_K = torch.arange(crossing.num_choices, device=worker_TK.device)
    return (vector_TK - before_TK) * crossing.num_choices + choice_K


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


def routing_of_arrivals(headers: Iterable[Header], slots_R: Tensor) -> Routing:
    """What arrived, as a routing: all lanes' tokens, one lane after another, with their K choices.

    Rows lie as a batch's do, by lane, then expert, token and choice. `slots_R`: all lanes' slots,
    int32, in the same order as the headers. `permute` with it turns vectors [U, H] into the
    batch's rows [R, H], forward and backward.

    The result depends on: the arguments (whole numbers).
    """
    headers = [header for header in headers if header.num_tokens]
    num_choices = _common_choices(headers)
    num_tokens = sum(header.num_tokens for header in headers)
    order_R = _slots_of_all(headers, slots_R)
    position_TK = _positions(order_R, num_tokens * num_choices).view(num_tokens, num_choices)
    counts_E = torch.tensor([header.counts for header in headers] or [[0]]).sum(0)
    return Routing(order_R, position_TK, counts_E, None, num_tokens, num_choices)


def _common_choices(headers: Sequence[Header]) -> int:
    """K, the same for all lanes that send something; 1 when none does."""
    num_choices = max((header.num_choices for header in headers), default=1)
    assert all(header.num_choices == num_choices for header in headers), "all lanes have one router"
    return num_choices


def _slots_of_all(headers: Sequence[Header], slots_R: Tensor) -> Tensor:
    """The slots of all lanes' rows, int64 [R]: a lane's count from its own first token, here they
    count from the first lane's."""
    slots_L = [header.num_tokens * header.num_choices for header in headers]
    first_L = _int64([*accumulate(slots_L, initial=0)][:-1], slots_R.device)
    rows_L = _int64([header.num_rows for header in headers], slots_R.device)
    return slots_R + first_L.repeat_interleave(rows_L, output_size=len(slots_R))


def _positions(order_R: Tensor, num_slots: int) -> Tensor:
    """The inverse of an order: the row of every slot. Slots without one point behind the last
    row."""
    positions = order_R.new_full((num_slots,), len(order_R))
    return positions.index_copy_(0, order_R, torch.arange(len(order_R), device=order_R.device))


def _int64(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).to(device)


def blocks_of(headers: Mapping[int, Header], experts: Sequence[int]) -> tuple[Block, ...]:
    """The blocks of a batch from its headers by lane, lanes in the order of their rows. `experts`:
    those of the worker."""
    blocks = []
    start = 0
    for lane, header in headers.items():
        for expert, count in zip(experts, header.counts, strict=True):
            if count:
                blocks.append(Block(expert, lane, start, count))
            start += count
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


def _workers(routing: Routing, num_rows: Sequence[int]) -> Tensor:
    """The worker of each slot, [T, K], D for a slot without a row. `num_rows`: rows of each
    worker."""
    ends_D = torch.tensor(list(accumulate(num_rows)), device=routing.position_TK.device)
    return torch.bucketize(routing.position_TK, ends_D, right=True)
