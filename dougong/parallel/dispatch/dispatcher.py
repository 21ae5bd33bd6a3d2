"""Dispatch and combine: what M attention workers and N experts workers write to each other, and how
they read it.

Any M and N, the same workers or others: a worker without lanes asks nothing, one without experts
answers nothing. A token crosses once for each worker that holds some of its experts; nothing is
padded and nothing dropped. This file makes and opens letters (`ops/parcels.py` says what is in
them); `mail` carries them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.errors import LaunchError
from dougong.ops import permute
from dougong.ops.experts.base import Block
from dougong.ops.permute import Routing
from dougong.parallel.comm.exchange import Expected, TensorMessage, in_words
from dougong.parallel.dispatch import crossing as ops
from dougong.parallel.dispatch.crossing import Combine, CrossingPlan, Header
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import CallKey, MessageKind, Operation
from dougong.parallel.segments.flight import ExpertsCall

PartSpec = tuple[tuple[int, ...], torch.dtype | None]
"""Shape and dtype of a letter's part; the weights of rows have the dtype that the family's router
gives them (None)."""


@dataclass
class DispatchHandle:
    """An experts call of all local lanes, on the attention side, by lane. `answers`: one for each
    row, as combined by this side (`at_attention` only)."""

    key: CallKey
    calls: Mapping[int, ExpertsCall]
    parcels: Mapping[int, CrossingPlan]
    combined: dict[int, Tensor] = field(default_factory=dict)
    answers: dict[int, Tensor] = field(default_factory=dict)
    douts: Mapping[int, Tensor] = field(default_factory=dict)
    drows: dict[int, Tensor] = field(default_factory=dict)
    dweights: dict[int, Tensor] = field(default_factory=dict)

    @property
    def routings(self) -> dict[int, Routing]:
        return {lane: parcels.routing for lane, parcels in self.parcels.items()}


@dataclass
class ExpertBatch:
    """A wave on the experts side: all lanes' rows [R, H] for the own experts and, in the order of
    its life, what comes of them. `sources`: (rank, tokens, rows) of every attention worker, in the
    order of the wave."""

    key: CallKey
    sources: Sequence[tuple[int, int, int]]
    arrived: Routing
    blocks: tuple[Block, ...]
    rows: Tensor
    weights: Tensor | None
    answers: Tensor = field(init=False)
    danswers: Tensor = field(init=False)
    dweights: Tensor | None = None
    drows: Tensor = field(init=False)


@dataclass(frozen=True)
class DispatchSpec:
    """What fixes the letters of a job: vectors of `hidden_size` values of `dtype`, and where
    answers are combined.

    `names`: what the model calls its sites, for errors.
    """

    hidden_size: int
    dtype: torch.dtype
    device: torch.device
    combine: Combine = "at_attention"
    names: Sequence[str] = ()

    def vectors(self, count: int) -> PartSpec:
        return (count, self.hidden_size), self.dtype


class Dispatcher:
    """One worker's end of dispatch and combine. Makes and opens letters; sends nothing itself."""

    def __init__(self, rank: int, plan: Plan, post: DispatchSpec, identity: bool) -> None:
        """`identity`: the family has experts that return the token itself; they never leave the
        attention worker."""
        self._rank, self._plan, self._post, self._identity = rank, plan, post, identity
        self._attention = {w.rank: w.lanes for w in plan.workers if w.lanes}
        self._experts = {w.rank: w.experts for w in plan.workers if w.num_experts}
        for of_site in zip(*self._experts.values(), strict=True):
            in_order = [expert for experts in of_site for expert in experts]
            assert in_order == list(range(plan.num_experts)), (
                "a plan gives experts in ascending order of rank"
            )
        in_order = [lane for lanes in self._attention.values() for lane in lanes]
        assert in_order == list(range(plan.num_lanes)), (
            "a plan gives lanes in ascending order of rank"
        )
        self._lanes = self._attention.get(rank, ())
        self._own = plan.workers[rank].experts

    def due(self, message: MessageKind, operations: Iterable[Operation]) -> list[Expected]:
        """The exchanges of one kind of message in a program, in its order."""
        out, back = list(self._experts), list(self._attention)
        targets, sources = (out, back) if message.direction == "dispatch" else (back, out)
        to = tuple(r for r in targets if r != self._rank) if self._rank in sources else ()
        whence = tuple(r for r in sources if r != self._rank) if self._rank in targets else ()
        keys = {
            (o.site, o.microbatch): None
            for o in operations
            if message in (o.kind.sends, o.kind.receives)
        }
        return [Expected(key, to, whence) for key in keys]

    # The attention side

    def ask(self, key: CallKey, calls: Mapping[int, ExpertsCall]) -> DispatchHandle:
        """Sort the slots of every lane's call by experts and workers. Lanes may be missing."""
        shares = [len(experts[key[0]]) for experts in self._experts.values()]
        routings = {
            lane: permute.make_routing(call.index, self._plan.num_experts, self._identity)
            for lane, call in calls.items()
        }
        return DispatchHandle(
            key, calls, {lane: ops.plan_crossing(r, shares) for lane, r in routings.items()}
        )

    def rows(self, sent: DispatchHandle) -> dict[int, TensorMessage]:
        """For every experts worker: headers [lanes, 2 + its experts], tokens' vectors, rows' slots
        (and weights)."""
        vectors = {
            lane: ops.pack_tokens(sent.calls[lane].hidden.detach(), p)
            for lane, p in sent.parcels.items()
        }
        slots = {lane: p.split_rows(p.slots_R) for lane, p in sent.parcels.items()}
        weights = self._weights(sent) if self._post.combine == "at_experts" else None
        letters = {}
        for place, (rank, experts) in enumerate(self._experts.items()):
            nothing = Header.of_nothing(len(experts[sent.key[0]]))
            headers = [
                sent.parcels[n].headers[place] if n in sent.parcels else nothing
                for n in self._lanes
            ]
            parts = [torch.tensor([header.numbers() for header in headers], dtype=torch.int64)]
            parts += [self._join(vectors, place), self._join(slots, place, torch.int32)]
            letters[rank] = TensorMessage(
                parts + ([self._join(weights, place)] if weights is not None else [])
            )
        return letters

    def take_answers(self, sent: DispatchHandle, letters: Mapping[int, TensorMessage]) -> None:
        """The experts' answers have come: combine them, lane by lane."""
        one_by_one = self._post.combine == "at_attention"
        self._check_back(MessageKind.OUTPUTS, sent, letters)
        by_lane = self._by_lane(sent, letters, 0, one_by_one)
        for lane, call in sent.calls.items():
            hidden, weights, parcels = (
                call.hidden.detach(),
                call.weights.detach(),
                sent.parcels[lane],
            )
            if one_by_one:
                sent.answers[lane] = by_lane[lane]
                sent.combined[lane] = permute.combine_rows(
                    by_lane[lane], hidden, weights, parcels.routing
                )
            else:
                sent.combined[lane] = ops.add_partial_sums(by_lane[lane], hidden, weights, parcels)

    def answer_gradients(
        self, sent: DispatchHandle, douts: Mapping[int, Tensor]
    ) -> dict[int, TensorMessage]:
        """For every experts worker: the gradients of its tokens' combined answers (and the rows'
        weights)."""
        sent.douts = douts
        vectors = {lane: ops.pack_tokens(douts[lane], p) for lane, p in sent.parcels.items()}
        weights = self._weights(sent) if self._post.combine == "at_attention" else None
        letters = {}
        for place, rank in enumerate(self._experts):
            parts = [self._join(vectors, place)]
            letters[rank] = TensorMessage(
                parts + ([self._join(weights, place)] if weights is not None else [])
            )
        return letters

    def take_row_gradients(
        self, sent: DispatchHandle, letters: Mapping[int, TensorMessage]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """The gradients of every lane's tokens [T, H] and router weights [T, K]."""
        one_by_one = self._post.combine == "at_attention"
        self._check_back(MessageKind.ROW_GRADIENTS, sent, letters)
        sent.drows = self._by_lane(sent, letters, 0, one_by_one)
        of_weights = {} if one_by_one else self._by_lane(sent, letters, 1, True)
        results = {}
        for lane, call in sent.calls.items():
            hidden, weights, dout = call.hidden.detach(), call.weights.detach(), sent.douts[lane]
            parcels = sent.parcels[lane]
            if one_by_one:
                dout_RH = permute.permute_rows(dout, parcels.routing)
                dweights_R = permute.products_of_rows(dout_RH, sent.answers.pop(lane))
                dhidden = permute.permute_backward(sent.drows[lane], dout, weights, parcels.routing)
            else:
                dweights_R = of_weights[lane]
                dhidden = ops.add_partial_sums(sent.drows[lane], dout, weights, parcels)
            dweights = permute.weights_backward(dweights_R, dout, hidden, weights, parcels.routing)
            sent.dweights[lane] = dweights
            results[lane] = dhidden, dweights
        return results

    # The experts side

    def open(self, key: CallKey, letters: Mapping[int, TensorMessage]) -> ExpertBatch:
        """Every lane's rows for the own experts, in lane order, from the letters of all attention
        workers."""
        headers: dict[int, Header] = {}
        sources = []
        for rank, letter in letters.items():
            theirs = self._headers(key, rank, letter)
            headers |= dict(zip(self._attention[rank], theirs, strict=True))
            sources.append((rank, *_totals(theirs)))
        vectors = self._whole(letters, 1)
        slots = torch.cat([letter.parts[2] for letter in letters.values()])
        arrived = ops.open_parcels(headers.values(), slots)
        weights = None
        if self._post.combine == "at_experts":
            weights = torch.cat([letter.parts[3] for letter in letters.values()])
        blocks = ops.blocks_of(headers, self._own[key[0]])
        return ExpertBatch(
            key, sources, arrived, blocks, permute.permute_rows(vectors, arrived), weights
        )

    def answers(self, served: ExpertBatch) -> dict[int, TensorMessage]:
        """For every attention worker: one answer for each of its rows, or its tokens' weighted
        sums."""
        if served.weights is None:
            return self._split(served, [(served.answers, True)])
        return self._split(
            served, [(ops.add_answers(served.answers, served.weights, served.arrived), False)]
        )

    def open_gradients(self, served: ExpertBatch, letters: Mapping[int, TensorMessage]) -> None:
        """The gradients of the wave's answers, from those of its tokens' combined answers."""
        for rank, num_tokens, num_rows in served.sources:
            due = [self._post.vectors(num_tokens)]
            if served.weights is None:
                due.append(((num_rows,), None))
            self._check(MessageKind.OUTPUT_GRADIENTS, served.key, rank, letters[rank].parts, due)
        vectors = self._whole(letters, 0)
        dout_RH = permute.permute_rows(vectors, served.arrived)
        weights = served.weights
        if weights is None:
            weights = torch.cat([letter.parts[1] for letter in letters.values()])
        else:
            served.dweights = permute.products_of_rows(dout_RH, served.answers)
        served.danswers = permute.weigh_rows(dout_RH, weights)

    def row_gradients(self, served: ExpertBatch) -> dict[int, TensorMessage]:
        """For every attention worker: the gradient of each of its rows, or its tokens' sums and the
        rows' weights'."""
        if served.dweights is None:
            return self._split(served, [(served.drows, True)])
        sums = ops.add_gradients(served.drows, served.arrived)
        return self._split(served, [(sums, False), (served.dweights, True)])

    # Parts of letters

    def _weights(self, sent: DispatchHandle) -> dict[int, Sequence[Tensor]]:
        return {
            lane: ops.pack_weights(sent.calls[lane].weights.detach(), p)
            for lane, p in sent.parcels.items()
        }

    def _join(
        self, by_lane: Mapping[int, Sequence[Tensor]], place: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """One worker's part of all lanes, lane after lane."""
        pieces = [by_lane[lane][place] for lane in self._lanes if lane in by_lane]
        if pieces:
            return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)
        return torch.empty(0, dtype=dtype or self._post.dtype, device=self._post.device)

    def _by_lane(
        self, sent: DispatchHandle, letters: Mapping[int, TensorMessage], part: int, by_row: bool
    ) -> dict[int, Tensor]:
        """One part of all letters, cut by lane and put together in the order of experts workers."""
        pieces: dict[int, list[Tensor]] = {lane: [] for lane in sent.parcels}
        for number, letter in enumerate(letters.values()):
            headers = [parcels.headers[number] for parcels in sent.parcels.values()]
            sizes = [header.num_rows if by_row else header.num_tokens for header in headers]
            for lane, piece in zip(sent.parcels, letter.parts[part].split(sizes), strict=True):
                pieces[lane].append(piece)
        return {lane: of[0] if len(of) == 1 else torch.cat(of) for lane, of in pieces.items()}

    def _whole(self, letters: Mapping[int, TensorMessage], part: int) -> Tensor:
        """One part of all letters, one after another: vectors [U, H]."""
        pieces = [letter.parts[part] for letter in letters.values() if len(letter.parts[part])]
        if not pieces:
            return torch.empty(
                0, self._post.hidden_size, dtype=self._post.dtype, device=self._post.device
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _split(
        self, served: ExpertBatch, parts: Sequence[tuple[Tensor, bool]]
    ) -> dict[int, TensorMessage]:
        """Cut what belongs to the wave's rows (True) or tokens (False) by attention worker."""
        letters = {}
        tokens = rows = 0
        for rank, num_tokens, num_rows in served.sources:
            spans = slice(tokens, tokens + num_tokens), slice(rows, rows + num_rows)
            letters[rank] = TensorMessage([part[spans[by_row]] for part, by_row in parts])
            tokens, rows = tokens + num_tokens, rows + num_rows
        return letters

    def _headers(self, key: CallKey, rank: int, letter: TensorMessage) -> list[Header]:
        """What an attention worker says of each of its lanes, and that the rest of its letter is as
        it says."""
        table: PartSpec = (len(self._attention[rank]), 2 + len(self._own[key[0]])), torch.int64
        self._check(MessageKind.ROWS, key, rank, letter.parts[:1], [table])
        headers = [Header.read(numbers) for numbers in letter.parts[0].tolist()]
        num_tokens, num_rows = _totals(headers)
        due = [table, self._post.vectors(num_tokens), ((num_rows,), torch.int32)]
        weights: list[PartSpec] = (
            [((num_rows,), None)] if self._post.combine == "at_experts" else []
        )
        self._check(MessageKind.ROWS, key, rank, letter.parts, due + weights)
        return headers

    def _check_back(
        self, message: MessageKind, sent: DispatchHandle, letters: Mapping[int, TensorMessage]
    ) -> None:
        """Answers, or gradients of rows: a vector for each row, or with `at_experts` one for each
        token."""
        for number, (rank, letter) in enumerate(letters.items()):
            num_tokens, num_rows = _totals(
                [parcels.headers[number] for parcels in sent.parcels.values()]
            )
            due = [
                self._post.vectors(num_rows if self._post.combine == "at_attention" else num_tokens)
            ]
            if message is MessageKind.ROW_GRADIENTS and self._post.combine == "at_experts":
                due.append(((num_rows,), None))
            self._check(message, sent.key, rank, letter.parts, due)

    def _check(
        self,
        message: MessageKind,
        key: CallKey,
        rank: int,
        parts: Sequence[Tensor],
        due: Sequence[PartSpec],
    ) -> None:
        """A letter's parts must be what was agreed on; one without a value may have any shape."""
        if len(parts) == len(due) and all(
            _is(part, *wanted) for part, wanted in zip(parts, due, strict=True)
        ):
            return
        sent = ", ".join(f"{tuple(part.shape)} {part.dtype}" for part in parts)
        wanted = ", ".join(f"{shape} {dtype or 'any dtype'}" for shape, dtype in due)
        raise LaunchError(
            f"worker {rank} sent worker {self._rank} {sent} as {message.value} of {in_words(key, self._post.names)}, "
            f"where {wanted} is due; the two do not run the same job, which is a fault of dougong: please report it "
            "with both logs"
        )


def _totals(headers: Sequence[Header]) -> tuple[int, int]:
    """(tokens, rows) of all lanes."""
    return sum(header.num_tokens for header in headers), sum(header.num_rows for header in headers)


def _is(part: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> bool:
    if math.prod(shape) == 0:
        return not part.numel()
    return tuple(part.shape) == shape and dtype in (None, part.dtype)
