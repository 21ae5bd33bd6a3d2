"""Dispatch and combine: what M attention workers and N experts workers send each other, and how
they read it.

Any M and N, the same workers or others: a worker without lanes sends no rows, one without experts
returns no outputs. A token crosses once for each worker that holds some of its experts; nothing is
padded and nothing dropped. This file makes and reads messages (`crossing` says what is in them);
`Exchange` carries them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dougong.ops import permute
from dougong.parallel.comm.exchange import Expected, Messages
from dougong.parallel.comm.message import TensorMessage
from dougong.parallel.dispatch import crossing as ops
from dougong.parallel.dispatch.crossing import Header
from dougong.parallel.dispatch.handle import DispatchHandle, ExpertBatch, SenderShare
from dougong.parallel.dispatch.spec import Delivery, DispatchSpec
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import CallKey, MessageKind, Operation
from dougong.parallel.segments.flight import ExpertsCall

Pieces = Mapping[int, Sequence[Tensor]]
"""By lane: one piece for each experts worker."""


class Dispatcher:
    """One worker's end of dispatch and combine. Makes and reads messages; sends nothing itself.

    A call goes through its methods in this order, on the attention side (A) and the experts' (E):
    `begin_call` and `rows` (A), `make_batch` and `outputs` (E), `combine` (A); then back with
    `output_gradients` (A), `take_output_gradients` and `row_gradients` (E), `input_gradients` (A).
    """

    def __init__(self, rank: int, plan: Plan, spec: DispatchSpec, identity: bool) -> None:
        """`identity`: the family has experts that return the token itself; they never leave the
        attention worker."""
        self._rank, self._num_experts, self._identity = rank, plan.num_experts, identity
        self._spec = spec
        self._lanes_of = {w.rank: w.lanes for w in plan.workers if w.lanes}
        self._experts_of = {w.rank: w.experts for w in plan.workers if w.num_experts}
        self._lanes = self._lanes_of.get(rank, ())
        self._experts = plan.workers[rank].experts
        _check_ascending(plan, self._lanes_of.values(), self._experts_of.values())

    def expected(self, kind: MessageKind, operations: Iterable[Operation]) -> list[Expected]:
        """What a program sends and receives of one kind of message, in its order."""
        senders, receivers = tuple(self._lanes_of), tuple(self._experts_of)
        if kind.direction == "combine":
            senders, receivers = receivers, senders
        targets = self._others(receivers) if self._rank in senders else ()
        sources = self._others(senders) if self._rank in receivers else ()
        return [Expected(key, targets, sources) for key in _calls_with(kind, operations)]

    def _others(self, ranks: Iterable[int]) -> tuple[int, ...]:
        return tuple(rank for rank in ranks if rank != self._rank)

    # The attention side

    def begin_call(self, key: CallKey, calls: Mapping[int, ExpertsCall]) -> DispatchHandle:
        """Sort the slots of every lane's call by experts and workers. Lanes may be missing."""
        site = key[0]
        num_experts = [len(experts[site]) for experts in self._experts_of.values()]
        crossings = {}
        for lane, call in calls.items():
            routing = permute.make_routing(call.index, self._num_experts, self._identity)
            crossings[lane] = ops.plan_crossing(routing, num_experts)
        return DispatchHandle(key, calls, crossings)

    def rows(self, handle: DispatchHandle) -> dict[int, TensorMessage]:
        """For every experts worker: headers [lanes, 2 + its experts], tokens' vectors, rows' slots
        (and weights)."""
        vectors, slots = _pack_hidden(handle), _pack_slots(handle)
        weights = None if self._spec.at_attention else _pack_weights(handle)
        messages = {}
        for position, rank in enumerate(self._experts_of):
            parts = [self._headers_for(rank, position, handle), self._join(vectors, position)]
            parts.append(self._join(slots, position, torch.int32))
            if weights is not None:
                parts.append(self._join(weights, position))
            messages[rank] = TensorMessage(parts)
        return messages

    def combine(self, handle: DispatchHandle, messages: Messages) -> None:
        """The experts' outputs have come: combine them, lane by lane."""
        self._check_returned(MessageKind.OUTPUTS, handle, messages)
        at_attention = self._spec.at_attention
        outputs = self._by_lane(handle, messages, 0, by_row=at_attention)
        if at_attention:
            handle.outputs |= outputs
        combine = _combine_at_attention if at_attention else _combine_at_experts
        for lane in handle.calls:
            handle.combined[lane] = combine(handle, lane, outputs[lane])

    def output_gradients(
        self, handle: DispatchHandle, douts: Mapping[int, Tensor]
    ) -> dict[int, TensorMessage]:
        """For every experts worker: the gradients of its tokens' combined outputs (and the rows'
        weights)."""
        handle.douts = douts
        vectors = _pack_tokens(handle, douts)
        weights = _pack_weights(handle) if self._spec.at_attention else None
        messages = {}
        for position, rank in enumerate(self._experts_of):
            parts = [self._join(vectors, position)]
            if weights is not None:
                parts.append(self._join(weights, position))
            messages[rank] = TensorMessage(parts)
        return messages

    def input_gradients(
        self, handle: DispatchHandle, messages: Messages
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """The rows' gradients have come: those of every lane's tokens [T, H] and router weights
        [T, K]."""
        at_attention = self._spec.at_attention
        self._check_returned(MessageKind.ROW_GRADIENTS, handle, messages)
        handle.drows = self._by_lane(handle, messages, 0, by_row=at_attention)
        dweights = {} if at_attention else self._by_lane(handle, messages, 1, by_row=True)
        results = {}
        for lane in handle.calls:
            if at_attention:
                results[lane] = _gradients_at_attention(handle, lane)
            else:
                results[lane] = _gradients_at_experts(handle, lane, dweights[lane])
            handle.dweights[lane] = results[lane][1]
        return results

    # The experts side

    def make_batch(self, key: CallKey, messages: Messages) -> ExpertBatch:
        """Every lane's rows for this worker's experts, in lane order, from the messages of all
        attention workers."""
        headers, sources = self._read_all_headers(key, messages)
        weights = None if self._spec.at_attention else _numbers_of_rows(messages, 3)
        arrived = ops.routing_of_arrivals(headers.values(), _numbers_of_rows(messages, 2))
        blocks = ops.blocks_of(headers, self._experts[key[0]])
        rows = permute.permute(self._whole(messages, 1), arrived)
        return ExpertBatch(key, sources, arrived, blocks, rows, weights)

    def outputs(self, batch: ExpertBatch) -> dict[int, TensorMessage]:
        """For every attention worker: one output for each of its rows, or its tokens' weighted
        sums."""
        if batch.weights is None:
            return _by_source(batch, by_row=[batch.outputs])
        sums = ops.add_outputs(batch.outputs, batch.weights, batch.arrived)
        return _by_source(batch, by_token=[sums])

    def take_output_gradients(self, batch: ExpertBatch, messages: Messages) -> None:
        """The gradients of the batch's outputs, from those of its tokens' combined outputs."""
        self._check_output_gradients(batch, messages)
        dout_RH = permute.permute(self._whole(messages, 0), batch.arrived)
        weights = batch.weights
        if weights is None:
            weights = _numbers_of_rows(messages, 1)
        else:
            batch.dweights = permute.products_of_rows(dout_RH, batch.outputs)
        batch.doutputs = permute.weigh_rows(dout_RH, weights)

    def row_gradients(self, batch: ExpertBatch) -> dict[int, TensorMessage]:
        """For every attention worker: the gradient of each of its rows, or its tokens' sums and the
        rows' weights'."""
        if batch.dweights is None:
            return _by_source(batch, by_row=[batch.drows])
        sums = ops.add_gradients(batch.drows, batch.arrived)
        return _by_source(batch, by_token=[sums], by_row=[batch.dweights])

    # Parts of messages

    def _headers_for(self, rank: int, position: int, handle: DispatchHandle) -> Tensor:
        """All local lanes' headers for one experts worker, int64 [lanes, 2 + its experts]."""
        nothing = Header.of_nothing(len(self._experts_of[rank][handle.key[0]]))
        table = []
        for lane in self._lanes:
            crossing = handle.crossings.get(lane)
            header = nothing if crossing is None else crossing.headers[position]
            table.append(header.numbers())
        return torch.tensor(table, dtype=torch.int64)

    def _join(self, pieces: Pieces, position: int, dtype: torch.dtype | None = None) -> Tensor:
        """One worker's part of all lanes, lane after lane."""
        present = [pieces[lane][position] for lane in self._lanes if lane in pieces]
        if not present:
            dtype = dtype or self._spec.dtype
            return torch.empty(0, dtype=dtype, device=self._spec.device)
        if len(present) == 1:
            return present[0].contiguous()
        return torch.cat(present)

    def _by_lane(
        self, handle: DispatchHandle, messages: Messages, part: int, by_row: bool
    ) -> dict[int, Tensor]:
        """One part of all messages, cut by lane and put together in the order of experts
        workers."""
        pieces: dict[int, list[Tensor]] = {lane: [] for lane in handle.crossings}
        for position, message in enumerate(messages.values()):
            headers = [crossing.headers[position] for crossing in handle.crossings.values()]
            sizes = [header.num_rows if by_row else header.num_tokens for header in headers]
            for lane, piece in zip(pieces, message.parts[part].split(sizes), strict=True):
                pieces[lane].append(piece)
        return {lane: _concatenated(found) for lane, found in pieces.items()}

    def _whole(self, messages: Messages, part: int) -> Tensor:
        """One part of all messages, one after another: vectors [U, H]."""
        found = [message.parts[part] for message in messages.values()]
        pieces = [piece for piece in found if len(piece)]
        return _concatenated(pieces) if pieces else self._spec.no_vectors()

    # Checks

    def _read_all_headers(
        self, key: CallKey, messages: Messages
    ) -> tuple[dict[int, Header], list[SenderShare]]:
        """Every lane's header, and how much came from each attention worker, all of it checked."""
        headers: dict[int, Header] = {}
        sources = []
        for rank, message in messages.items():
            found = self._read_headers(key, rank, message)
            headers |= dict(zip(self._lanes_of[rank], found, strict=True))
            sources.append(SenderShare(rank, *_totals(found)))
        return headers, sources

    def _read_headers(self, key: CallKey, rank: int, message: TensorMessage) -> list[Header]:
        """What an attention worker says of each of its lanes, and that the rest of its message is
        as it says."""
        spec, delivery = self._spec, self._delivery(MessageKind.ROWS, key, rank)
        table = spec.headers(len(self._lanes_of[rank]), len(self._experts[key[0]]))
        delivery.check(message.parts[:1], [table], spec.names)
        headers = [Header.read(numbers) for numbers in message.parts[0].tolist()]
        delivery.check(message.parts, spec.rows(table, *_totals(headers)), spec.names)
        return headers

    def _check_output_gradients(self, batch: ExpertBatch, messages: Messages) -> None:
        """They are of as many tokens and rows as had come from each attention worker."""
        for source in batch.sources:
            due = self._spec.output_gradients(source.num_tokens, source.num_rows)
            delivery = self._delivery(MessageKind.OUTPUT_GRADIENTS, batch.key, source.rank)
            delivery.check(messages[source.rank].parts, due, self._spec.names)

    def _check_returned(
        self, kind: MessageKind, handle: DispatchHandle, messages: Messages
    ) -> None:
        """Expert outputs, or gradients of rows, are of as many rows and tokens as were sent."""
        for position, (rank, message) in enumerate(messages.items()):
            sent = [crossing.headers[position] for crossing in handle.crossings.values()]
            if kind is MessageKind.OUTPUTS:
                due = self._spec.outputs(*_totals(sent))
            else:
                due = self._spec.row_gradients(*_totals(sent))
            delivery = self._delivery(kind, handle.key, rank)
            delivery.check(message.parts, due, self._spec.names)

    def _delivery(self, kind: MessageKind, key: CallKey, sender: int) -> Delivery:
        return Delivery(kind, key, sender, self._rank)


def _calls_with(kind: MessageKind, operations: Iterable[Operation]) -> list[CallKey]:
    """The calls of which a program has a message of this kind, in the order of the messages."""
    # A worker of both roles sends and receives it: its call counts once, where it comes first.
    keys: dict[CallKey, None] = {}
    for operation in operations:
        if operation.kind.message is kind:
            keys[operation.site, operation.microbatch] = None
    return list(keys)


def _check_ascending(
    plan: Plan, lanes: Iterable[Sequence[int]], experts: Iterable[Sequence[Sequence[int]]]
) -> None:
    """Pieces of workers, put together by rank, must lie in the order of lanes and of experts: the
    same order on every layout is what makes the same bits of every layout."""
    joined = list(itertools.chain.from_iterable(lanes))
    assert joined == list(range(plan.num_lanes)), "a plan gives lanes in ascending order of rank"
    for site in zip(*experts, strict=True):
        joined = list(itertools.chain.from_iterable(site))
        assert joined == list(range(plan.num_experts)), (
            "a plan gives experts in ascending order of rank"
        )


def _combine_at_attention(handle: DispatchHandle, lane: int, outputs_RH: Tensor) -> Tensor:
    """One lane's combined outputs [T, H], of an output for each of its rows."""
    call, routing = handle.calls[lane], handle.crossings[lane].routing
    return permute.unpermute(outputs_RH, call.hidden.detach(), call.weights.detach(), routing)


def _combine_at_experts(handle: DispatchHandle, lane: int, sums_VH: Tensor) -> Tensor:
    """One lane's combined outputs [T, H], of the sums that the experts have made for each token."""
    call, crossing = handle.calls[lane], handle.crossings[lane]
    return ops.add_partial_sums(sums_VH, call.hidden.detach(), call.weights.detach(), crossing)


def _gradients_at_attention(handle: DispatchHandle, lane: int) -> tuple[Tensor, Tensor]:
    """Of one lane's tokens and router weights, where this side combines: it has every output and
    every row's gradient."""
    call, routing = handle.calls[lane], handle.crossings[lane].routing
    hidden, weights, dout = call.hidden.detach(), call.weights.detach(), handle.douts[lane]
    dout_RH = permute.permute(dout, routing)
    dweights_R = permute.products_of_rows(dout_RH, handle.outputs.pop(lane))
    dhidden = permute.permute_backward(handle.drows[lane], dout, weights, routing)
    return dhidden, permute.weights_backward(dweights_R, dout, hidden, weights, routing)


def _gradients_at_experts(
    handle: DispatchHandle, lane: int, dweights_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one lane's tokens and router weights, where the experts combine: they return sums by
    token, and the rows' weights' gradients."""
    call, crossing = handle.calls[lane], handle.crossings[lane]
    hidden, weights, dout = call.hidden.detach(), call.weights.detach(), handle.douts[lane]
    dhidden = ops.add_partial_sums(handle.drows[lane], dout, weights, crossing)
    return dhidden, permute.weights_backward(dweights_R, dout, hidden, weights, crossing.routing)


def _pack_tokens(handle: DispatchHandle, vectors: Mapping[int, Tensor]) -> Pieces:
    """What leaves of one vector [T, H] for each token of every lane."""
    packed: dict[int, Sequence[Tensor]] = {}
    for lane, crossing in handle.crossings.items():
        packed[lane] = ops.pack_tokens(vectors[lane], crossing)
    return packed


def _pack_hidden(handle: DispatchHandle) -> Pieces:
    """What leaves of every lane's tokens themselves."""
    hidden = {lane: call.hidden.detach() for lane, call in handle.calls.items()}
    return _pack_tokens(handle, hidden)


def _pack_slots(handle: DispatchHandle) -> Pieces:
    """The slots of every lane's rows: for each, its token at the worker and its choice."""
    packed: dict[int, Sequence[Tensor]] = {}
    for lane, crossing in handle.crossings.items():
        packed[lane] = crossing.split_rows(crossing.slots_R)
    return packed


def _pack_weights(handle: DispatchHandle) -> Pieces:
    """The weights of every lane's rows."""
    packed: dict[int, Sequence[Tensor]] = {}
    for lane, crossing in handle.crossings.items():
        packed[lane] = ops.pack_weights(handle.calls[lane].weights.detach(), crossing)
    return packed


def _by_source(
    batch: ExpertBatch, by_token: Sequence[Tensor] = (), by_row: Sequence[Tensor] = ()
) -> dict[int, TensorMessage]:
    """Cut what belongs to the batch's tokens, and what belongs to its rows, by attention worker."""
    messages = {}
    token = row = 0
    for source in batch.sources:
        parts = [part[token : token + source.num_tokens] for part in by_token]
        parts += [part[row : row + source.num_rows] for part in by_row]
        messages[source.rank] = TensorMessage(parts)
        token, row = token + source.num_tokens, row + source.num_rows
    return messages


def _numbers_of_rows(messages: Messages, part: int) -> Tensor:
    """One part of all messages, one after another: a slot or a weight of each row, [R]."""
    return torch.cat([message.parts[part] for message in messages.values()])


def _concatenated(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def _totals(headers: Sequence[Header]) -> tuple[int, int]:
    """(tokens, rows) of all lanes."""
    num_tokens = sum(header.num_tokens for header in headers)
    return num_tokens, sum(header.num_rows for header in headers)
