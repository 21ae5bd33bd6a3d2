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
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.ops import permute
from dougong.parallel.comm.message import PartRoom, SplitTensor, TableSpec
from dougong.parallel.comm.peers import Sides
from dougong.parallel.dispatch import crossing as ops
from dougong.parallel.dispatch.crossing import CrossingPlan, ExpertHolders
from dougong.parallel.dispatch.handle import DispatchHandle, ExpertBatch
from dougong.parallel.dispatch.spec import DispatchSpec, Sizes
from dougong.parallel.dispatch.table import IncomingTable, OutgoingTable, TableRead
from dougong.parallel.exchange.expected import Expected, Outgoing, Received
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import CallKey, MessageKind
from dougong.parallel.segments.flight import ExpertsCall

Pieces = Sequence[Tensor]
"""A tensor of each local lane, in their order, cut by experts worker."""


@dataclass(frozen=True)
class _DispatchSite:
    """What of a site follows from the plan. `outgoing` and `incoming`: None on a worker that sends
    no rows, or gets none."""

    holders: ExpertHolders
    outgoing: OutgoingTable | None
    incoming: IncomingTable | None


class Dispatcher:
    """One worker's end of dispatch and combine. Makes and reads messages; sends nothing itself.

    A call goes through its methods in this order, on the attention side (A) and the experts' (E):
    `begin_call` and `rows` (A), `make_batch` and `outputs` (E), `combine` (A); then back with
    `output_gradients` (A), `take_output_gradients` and `row_gradients` (E), `input_gradients` (A).
    """

    def __init__(self, rank: int, plan: Plan, spec: DispatchSpec, identity: bool) -> None:
        """`identity`: the family has experts that return the token itself; they never leave the
        attention worker."""
        self._spec, self._identity = spec, identity
        lanes_of = {w.rank: w.lanes for w in plan.workers if w.lanes}
        experts_of = {w.rank: w.experts for w in plan.workers if w.num_experts}
        self._attention, self._experts_workers = tuple(lanes_of), tuple(experts_of)
        self._lanes = lanes_of.get(rank, ())
        self._all_lanes = tuple(itertools.chain.from_iterable(lanes_of.values()))
        self._experts = plan.workers[rank].experts
        _check_ascending(plan, lanes_of.values(), experts_of.values())
        lanes_S = [len(lanes) for lanes in lanes_of.values()]
        self._sites = []
        # What tables have told of rows that are on their way.
        self._reads: dict[CallKey, TableRead] = {}
        for site, own in enumerate(self._experts):
            experts_D = [len(experts[site]) for experts in experts_of.values()]
            outgoing = OutgoingTable(len(self._lanes), experts_D) if self._lanes else None
            incoming = IncomingTable(lanes_S, len(own)) if rank in experts_of else None
            self._sites.append(
                _DispatchSite(ExpertHolders.of(experts_D, spec.device), outgoing, incoming)
            )

    def expected(self, order: Iterable[tuple[MessageKind, CallKey]]) -> list[Expected]:
        """Who sends and receives these messages, and what table goes ahead of them."""
        return [self._expected(kind, key) for kind, key in order]

    def _expected(self, kind: MessageKind, key: CallKey) -> Expected:
        senders, receivers = self._attention, self._experts_workers
        if kind.direction == "combine":
            senders, receivers = receivers, senders
        table = self._table_spec(key) if kind is MessageKind.ROWS else None
        num_parts = self._spec.num_parts(kind)
        return Expected(kind, key, Sides(senders, receivers), num_parts, table)

    def _table_spec(self, key: CallKey) -> TableSpec:
        known = self._sites[key[0]]
        sends = known.outgoing.sizes if known.outgoing is not None else ()
        receives = known.incoming.sizes if known.incoming is not None else ()

        def rooms(table: Tensor) -> list[PartRoom]:
            assert known.incoming is not None, "only a worker with experts receives rows"
            read = self._reads[key] = known.incoming.read(table)
            return self._spec.rooms(MessageKind.ROWS, _sizes_of(read))

        return TableSpec(sends, receives, rooms)

    # The attention side

    def begin_call(self, key: CallKey, calls: Mapping[int, ExpertsCall]) -> DispatchHandle:
        """Sort the slots of every lane's call by experts and workers. Lanes may be missing."""
        holders = self._sites[key[0]].holders
        indices = [call.index for call in calls.values()]
        found = ops.plan_crossings(indices, holders, self._identity)
        crossings = dict(zip(calls, found, strict=True))
        num_workers = len(self._experts_workers)
        sizes = Sizes(
            _added([crossing.tokens_D for crossing in found], num_workers),
            _added([crossing.rows_D for crossing in found], num_workers),
            next((call.weights.dtype for call in calls.values()), torch.float32),
        )
        return DispatchHandle(key, calls, crossings, sizes)

    def rows(self, handle: DispatchHandle) -> Outgoing:
        """To the experts workers: the count table; the tokens' vectors, the rows' slots (and
        weights)."""
        crossings = handle.crossings.values()
        vectors = self._pack_tokens(handle, {n: c.hidden.detach() for n, c in handle.calls.items()})
        slots = self._by_row([one.slots_R for one in crossings], handle, torch.int32)
        parts = [vectors, slots]
        if not self._spec.at_attention:
            parts.append(self._pack_weights(handle))
        checked = self._checked(MessageKind.ROWS, handle.key, parts, handle.sizes)
        return Outgoing(checked.parts, self._table(handle))

    def _table(self, handle: DispatchHandle) -> Tensor:
        """What tells every experts worker how much comes."""
        outgoing = self._sites[handle.key[0]].outgoing
        assert outgoing is not None, "only a worker with lanes sends rows"
        crossings = [handle.crossings.get(lane) for lane in self._lanes]
        return outgoing.make(crossings, handle.sizes.weights_dtype)

    def returned(self, kind: MessageKind, handle: DispatchHandle) -> list[PartRoom]:
        """What the experts workers send back: expert outputs, or gradients of rows."""
        return self._spec.rooms(kind, handle.sizes)

    def combine(self, handle: DispatchHandle, received: Received, keep: bool = False) -> None:
        """The experts' outputs have come: combine them, lane by lane. `keep`: somebody wants to see
        them."""
        at_attention = self._spec.at_attention
        outputs = self._by_lane(handle, received.parts[0], by_row=at_attention)
        if at_attention and keep:
            handle.outputs |= outputs
        combine = _combine_at_attention if at_attention else _combine_at_experts
        for lane in handle.calls:
            handle.combined[lane] = combine(handle, lane, outputs[lane])

    def output_gradients(self, handle: DispatchHandle, douts: Mapping[int, Tensor]) -> Outgoing:
        """To the experts workers: the gradients of the tokens' combined outputs (and the rows'
        weights)."""
        handle.douts = douts
        parts = [self._pack_tokens(handle, douts)]
        if self._spec.at_attention:
            parts.append(self._pack_weights(handle))
        return self._checked(MessageKind.OUTPUT_GRADIENTS, handle.key, parts, handle.sizes)

    def input_gradients(
        self, handle: DispatchHandle, received: Received
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """The rows' gradients have come: those of every lane's tokens [T, H] and router weights
        [T, K]."""
        at_attention = self._spec.at_attention
        handle.drows = self._by_lane(handle, received.parts[0], by_row=at_attention)
        dweights = self._by_lane(handle, received.parts[1], by_row=True)
        results = {}
        for lane in handle.calls:
            results[lane] = self._gradients_of(handle, lane, dweights[lane])
            handle.dweights[lane] = results[lane][1]
        return results

    def _gradients_of(
        self, handle: DispatchHandle, lane: int, dweights_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of one lane's tokens and router weights."""
        call, crossing, drows = handle.calls[lane], handle.crossings[lane], handle.drows[lane]
        hidden, weights, dout = call.hidden.detach(), call.weights.detach(), handle.douts[lane]
        if self._spec.at_attention:
            dhidden = permute.permute_backward(drows, dout, weights, crossing.routing)
        else:
            dhidden = ops.add_partial_sums(drows, dout, weights, crossing)
        dweights = permute.weights_backward(dweights_R, dout, hidden, weights, crossing.routing)
        return dhidden, dweights

    # The experts side

    def make_batch(self, key: CallKey, received: Received) -> ExpertBatch:
        """Every lane's rows for this worker's experts, in lane order, from what all attention
        workers have sent."""
        read = self._reads.pop(key)
        vectors, slots, *weights = received.parts
        arrived = ops.routing_of_arrivals(read.counts, slots)
        blocks = ops.blocks_of(read.counts, self._all_lanes, self._experts[key[0]])
        rows = permute.permute(vectors, arrived)
        weights_R = weights[0] if weights else None
        return ExpertBatch(key, _sizes_of(read), arrived, blocks, rows, weights_R)

    def arriving(self, batch: ExpertBatch) -> list[PartRoom]:
        """What the attention workers send in the backward: the gradients of outputs."""
        return self._spec.rooms(MessageKind.OUTPUT_GRADIENTS, batch.sizes)

    def outputs(self, batch: ExpertBatch) -> Outgoing:
        """To the attention workers: one output for each of their rows, or their tokens' weighted
        sums."""
        if batch.weights is None:
            part = SplitTensor(batch.outputs, batch.sizes.rows)
        else:
            sums = ops.add_outputs(batch.outputs, batch.weights, batch.arrived)
            part = SplitTensor(sums, batch.sizes.tokens)
        return self._checked(MessageKind.OUTPUTS, batch.key, [part], batch.sizes)

    def take_output_gradients(self, batch: ExpertBatch, received: Received) -> None:
        """The gradients of its tokens' combined outputs have come."""
        dout, *given = received.parts
        batch.douts = permute.permute(dout, batch.arrived)
        if given:
            (batch.weights,) = given

    def row_gradients(self, batch: ExpertBatch) -> Outgoing:
        """To the attention workers: the gradient of each of their rows, or their tokens' sums; and
        of the rows' weights."""
        sizes = batch.sizes
        if self._spec.at_attention:
            drows = SplitTensor(batch.drows, sizes.rows)
        else:
            drows = SplitTensor(ops.add_gradients(batch.drows, batch.arrived), sizes.tokens)
        parts = [drows, SplitTensor(batch.dweights, sizes.rows)]
        return self._checked(MessageKind.ROW_GRADIENTS, batch.key, parts, sizes)

    # Parts of messages

    def _pack_tokens(self, handle: DispatchHandle, vectors: Mapping[int, Tensor]) -> SplitTensor:
        """What leaves of one vector [T, H] for each token of every lane."""
        crossings = handle.crossings
        packed = [permute.permute(vectors[lane], one.crossing) for lane, one in crossings.items()]
        if not packed:
            packed = [self._spec.no_vectors()]
        sizes = [crossing.tokens_D for crossing in crossings.values()]
        return SplitTensor(_by_worker(packed, sizes), handle.sizes.tokens)

    def _pack_weights(self, handle: DispatchHandle) -> SplitTensor:
        """The weights of every lane's rows."""
        packed = []
        for lane, crossing in handle.crossings.items():
            weights = handle.calls[lane].weights.detach()
            packed.append(permute.weights_of_rows(weights, crossing.routing))
        return self._by_row(packed, handle, handle.sizes.weights_dtype)

    def _by_row(self, packed: Pieces, handle: DispatchHandle, dtype: torch.dtype) -> SplitTensor:
        """What has one entry for each row of every lane."""
        sizes = [crossing.rows_D for crossing in handle.crossings.values()]
        if not packed:
            packed = [torch.empty(0, dtype=dtype, device=self._spec.device)]
        return SplitTensor(_by_worker(packed, sizes), handle.sizes.rows)

    def _by_lane(self, handle: DispatchHandle, values: Tensor, by_row: bool) -> dict[int, Tensor]:
        """What has come of all experts workers, each one's of all lanes together, put together by
        lane, in the order of experts workers."""
        sizes = [_sizes(crossing, by_row) for crossing in handle.crossings.values()]
        if len(sizes) <= 1:
            return dict.fromkeys(handle.crossings, values)
        lengths = itertools.chain.from_iterable(zip(*sizes, strict=True))
        pieces = values.split(list(lengths))
        found = {}
        for place, lane in enumerate(handle.crossings):
            of_lane = pieces[place :: len(sizes)]
            found[lane] = of_lane[0] if len(of_lane) == 1 else torch.cat(of_lane)
        return found

    def _checked(
        self, kind: MessageKind, key: CallKey, parts: Sequence[SplitTensor], sizes: Sizes
    ) -> Outgoing:
        self._spec.check(kind, key, parts, sizes)
        return Outgoing(parts)


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


def _by_worker(packed: Pieces, sizes: Sequence[Sequence[int]]) -> Tensor:
    """All lanes' values, each lane's by worker, put together by worker, then lane."""
    if len(packed) == 1:
        return packed[0].contiguous()
    pieces = [values.split(of_lane) for values, of_lane in zip(packed, sizes, strict=True)]
    return torch.cat(list(itertools.chain.from_iterable(zip(*pieces, strict=True))))


def _sizes(crossing: CrossingPlan, by_row: bool) -> Sequence[int]:
    return crossing.rows_D if by_row else crossing.tokens_D


def _added(sizes: Sequence[Sequence[int]], length: int) -> Sequence[int]:
    """The sum of several lists of numbers, place by place."""
    if not sizes:
        return [0] * length
    if len(sizes) == 1:
        return sizes[0]
    return [sum(column) for column in zip(*sizes, strict=True)]


def _sizes_of(read: TableRead) -> Sizes:
    return Sizes(read.tokens_S, read.rows_S, read.weights_dtype)


def _combine_at_attention(handle: DispatchHandle, lane: int, outputs_RH: Tensor) -> Tensor:
    """One lane's combined outputs [T, H], of an output for each of its rows."""
    call, routing = handle.calls[lane], handle.crossings[lane].routing
    return permute.unpermute(outputs_RH, call.hidden.detach(), call.weights.detach(), routing)


def _combine_at_experts(handle: DispatchHandle, lane: int, sums_VH: Tensor) -> Tensor:
    """One lane's combined outputs [T, H], of the sums that the experts have made for each token."""
    call, crossing = handle.calls[lane], handle.crossings[lane]
    return ops.add_partial_sums(sums_VH, call.hidden.detach(), call.weights.detach(), crossing)
