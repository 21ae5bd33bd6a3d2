"""What travels between attention and experts: a token crosses once for each worker that holds some
of its experts.

To cross to a worker is to be routed to it. So the attention side keeps, beside the routing of slots
to experts, a second routing of tokens to workers, and an experts worker sees what arrived as a
routing of its own: U tokens with K choices, of which those made elsewhere have no row. The
functions of `routing.py` then serve both sides. For one site and micro-batch, and a worker that
gets R rows of U tokens (bytes: b of a value, w of a weight, s of its gradient):

    ahead of all                    header                              attention -> experts   8 * (2 + its experts)
    forward                         vectors [U, H], slots [R] int32     attention -> experts   U*H*b + 4*R
        combine: at_experts         and the rows' weights [R]                                  + R*w
    answers        at_attention     one for each row [R, H]             experts -> attention   R*H*b
                   at_experts       weighted sums [U, H]                                       U*H*b
    backward                        dout [U, H]                         attention -> experts   U*H*b
                   at_attention     and the rows' weights [R]                                  + R*w
    gradients      at_attention     one for each row [R, H]             experts -> attention   R*H*b
                   at_experts       sums [U, H], of the weights [R]                            U*H*b + R*s

An identity expert or an index of -1 never leaves. At attention, the forward, the gradients of the
tokens and those of the weights have the bits of one worker's `routing.py`, wherever the experts
are. At experts, the products and the weights' gradients still have; sums depend on which of a
token's choices went to one worker, since those are added first (and rounded, in half precision).
They do not depend on which worker that is or how workers are numbered: a token's partial sums are
added in the order of the first choice in each. In float32 or wider, a token whose K choices all go
to different workers, or all to one, so gets the bits of `at_attention`.

What the attention side does with rows that came back, joined worker by worker, is in `routing.py`:
`combine_rows`, `permute_backward`, and `weights_backward` with `products_of_rows` (at attention) or
with what arrived (at experts).

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
    permute_backward,
    permute_rows,
    sum_by_token,
    sum_dtype,
    weights_of_rows,
)

Combine = Literal["at_attention", "at_experts"]
"""Where a token's answers are weighted and added."""


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
        return cls(numbers[0], numbers[1], tuple(numbers[2:]))

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


# ---------------------------------------------------------------------------------------------------------------------
# The attention side, one lane


def plan_crossing(routing: Routing, num_experts: Sequence[int]) -> CrossingPlan:
    """Pack a lane's slots for D workers that hold the next `num_experts[d]` experts each; some may
    hold none.

    The result depends on: the routing and who holds which experts (whole numbers).
    """
    counts = [tuple(part.tolist()) for part in routing.counts_E.split(list(num_experts))]
    worker_TK = _workers(routing, [sum(of) for of in counts])
    choice_K = torch.arange(routing.num_choices, device=worker_TK.device)
    same_TKK = worker_TK[:, :, None] == worker_TK[:, None, :]
    first_TK = torch.where(same_TKK, choice_K, routing.num_choices).amin(-1)
    crossing = make_routing(torch.where(first_TK == choice_K, worker_TK, -1), len(counts))
    crossing.identity_TK = routing.identity_TK

    num_tokens = crossing.counts_E.tolist()
    before_D = torch.tensor([0, *accumulate(num_tokens)], device=worker_TK.device)
    vector_TK = crossing.position_TK.gather(1, first_TK)
    before_TK = before_D.index_select(0, worker_TK.view(-1)).view_as(worker_TK)
    slot_TK = (vector_TK - before_TK) * routing.num_choices + choice_K
    slots_R = slot_TK.view(-1).index_select(0, routing.order_R).to(torch.int32)
    headers = tuple(
        Header(u, routing.num_choices, of) for u, of in zip(num_tokens, counts, strict=True)
    )
    return CrossingPlan(routing, crossing, slots_R, headers)


def pack_tokens(own_TH: Tensor, parcels: CrossingPlan) -> tuple[Tensor, ...]:
    """The vectors that leave for each worker, D views [U, H]: of the tokens in the forward, of dout
    in the backward.

    The result depends on: the arguments' values; vectors are copied, nothing is computed.
    """
    return parcels.split_vectors(permute_rows(own_TH, parcels.crossing))


def pack_weights(weights_TK: Tensor, parcels: CrossingPlan) -> tuple[Tensor, ...]:
    """The weights of the rows for each worker, D views [R]."""
    return parcels.split_rows(weights_of_rows(weights_TK, parcels.routing))


def add_partial_sums(
    partial_VH: Tensor, own_TH: Tensor, weights_TK: Tensor, parcels: CrossingPlan
) -> Tensor:
    """`at_experts`: each token's partial sums, all workers' one after another, added up, [T, H] in
    `own_TH`'s dtype.

    In the forward `own_TH` is the tokens, in the backward dout: a choice that returned the token
    itself contributes `weight * own` in its place, rounded to `partial_VH`'s dtype as the partial
    sums are. Sums are float32 for half precision.

    The result depends on: the token's own partial sums, added in the order of the first choice in
    each; so on which of its choices share a worker, not on which worker that is.
    """
    return permute_backward(partial_VH, own_TH, weights_TK, parcels.crossing)


# ---------------------------------------------------------------------------------------------------------------------
# The experts side, all lanes of a wave


def open_parcels(headers: Iterable[Header], slots_R: Tensor) -> Routing:
    """What arrived, as a routing: all lanes' tokens, one lane after another, with their K choices;
    rows lie as a wave's do, by lane, then expert, token and choice. `slots_R`: all lanes' slots,
    int32, in the same order as the headers.

    `permute_rows` with it turns vectors [U, H] into the wave's rows [R, H], forward and backward.
    The result depends on: the arguments (whole numbers).
    """
    headers = [header for header in headers if header.num_tokens]
    num_choices = max((header.num_choices for header in headers), default=1)
    assert all(header.num_choices == num_choices for header in headers), "all lanes have one router"
    num_slots = [header.num_tokens * num_choices for header in headers]
    first_L = torch.tensor(
        [sum(num_slots[:lane]) for lane in range(len(headers))], dtype=torch.int64
    )
    rows_L = torch.tensor([header.num_rows for header in headers], dtype=torch.int64)
    of_lane_R = first_L.to(slots_R.device).repeat_interleave(
        rows_L.to(slots_R.device), output_size=len(slots_R)
    )
    order_R = slots_R + of_lane_R
    num_tokens = sum(header.num_tokens for header in headers)
    position = order_R.new_full((sum(num_slots),), len(order_R))
    position.index_copy_(0, order_R, torch.arange(len(order_R), device=order_R.device))
    counts_E = torch.tensor([header.counts for header in headers] or [[0]]).sum(0)
    return Routing(
        order_R, position.view(num_tokens, num_choices), counts_E, None, num_tokens, num_choices
    )


def blocks_of(headers: Mapping[int, Header], experts: Sequence[int]) -> tuple[Block, ...]:
    """The blocks of a wave from its headers by lane, lanes in the order of their rows; `experts`:
    the worker's own."""
    sizes = [
        (e, lane, n)
        for lane, header in headers.items()
        for e, n in zip(experts, header.counts, strict=True)
    ]
    starts = accumulate((n for _, _, n in sizes), initial=0)
    return tuple(
        Block(e, lane, start, n) for (e, lane, n), start in zip(sizes, starts, strict=False) if n
    )


def add_answers(answers_RH: Tensor, weights_R: Tensor, arrived: Routing) -> Tensor:
    """`at_experts`: the weighted sum of each token's answers here, in the router's order, [U, H] in
    their dtype.

    Products are in the wider dtype of answers and weights, sums in float32 for half precision, as
    in `combine_rows`.

    The result depends on: the token's own rows here and their weights, and the order of its
    choices.
    """
    return sum_by_token(answers_RH * weights_R[:, None], arrived, answers_RH.dtype)


def add_gradients(drows_RH: Tensor, arrived: Routing) -> Tensor:
    """`at_experts`: the sum of the gradients of each token's rows here, in the router's order, [U,
    H] in their dtype.

    The result depends on: the token's own rows here and the order of its choices.
    """
    return sum_by_token(drows_RH, arrived, drows_RH.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# What it costs


@dataclass(frozen=True)
class Widths:
    """Sizes of what travels: `hidden_size` values of `dtype` in a vector, weights of
    `weight_dtype`."""

    hidden_size: int
    dtype: torch.dtype
    weight_dtype: torch.dtype


@dataclass(frozen=True)
class Traffic:
    """Bytes between one lane and one worker for one site and micro-batch, by message. `header`
    travels ahead once."""

    header: int
    forward: int
    answers: int
    backward: int
    gradients: int

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.header + other.header,
            self.forward + other.forward,
            self.answers + other.answers,
            self.backward + other.backward,
            self.gradients + other.gradients,
        )


def bytes_of(header: Header, widths: Widths, combine: Combine) -> Traffic:
    """The formulas at the top of this file, for the routing that happened.

    They are those of the table in `research/afd_ep.md`, section 3.7, with U and k as they were: a
    row's place costs 4 bytes and its weight what it takes; the gradients of `at_attention` return
    row by row, as the answers do, because a sum by worker would depend on the layout. What stays on
    one worker crosses nothing: leave its headers out.
    """
    vectors = header.num_tokens * widths.hidden_size * widths.dtype.itemsize
    rows = header.num_rows * widths.hidden_size * widths.dtype.itemsize
    weights = header.num_rows * widths.weight_dtype.itemsize
    ahead, slots = 8 * len(header.numbers()), header.num_rows * torch.int32.itemsize
    if combine == "at_attention":
        return Traffic(ahead, vectors + slots, rows, vectors + weights, rows)
    sums = header.num_rows * sum_dtype(widths.dtype).itemsize
    return Traffic(ahead, vectors + slots + weights, vectors, vectors, vectors + sums)


def _workers(routing: Routing, num_rows: Sequence[int]) -> Tensor:
    """The worker of each slot, [T, K], D for a slot without a row. `num_rows`: rows of each
    worker."""
    ends_D = torch.tensor(list(accumulate(num_rows)), device=routing.position_TK.device)
    return torch.bucketize(routing.position_TK, ends_D, right=True)
