"""Rows to their experts and back, over any roles and routings, in real processes; messages out of step are refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dougong.errors import LaunchError
from dougong.ops import permute
from dougong.ops.experts.base import Block
from dougong.parallel.comm.world import World
from dougong.parallel.dispatch.crossing import Combine
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.handle import ExpertBatch
from dougong.parallel.dispatch.spec import DispatchSpec, Sizes
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Received
from dougong.parallel.plan import Plan
from dougong.parallel.schedules.operation import Kind, MessageKind
from dougong.parallel.schedules.serial import serial
from dougong.parallel.segments.flight import ExpertsCall
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel.workers import blocks_of, plan_of
from tests.processes import run_workers
from tests.reference import combine_backward
from torch import Tensor

EXPERTS, LANES, HIDDEN, TOKENS = 8, 6, 3, 5
KEY = (0, 0)

ROUTINGS = ("random", "one expert gets all", "one choice", "half have no expert", "none has an expert", "identity")


def index_of(kind: str, lane: int, num_experts: int = EXPERTS) -> Tensor:
    """One lane's choices [T, K]; T differs from lane to lane."""
    generator = torch.Generator().manual_seed(lane)
    tokens = TOKENS + lane
    if kind == "one expert gets all":
        return torch.full((tokens, 2), num_experts - 2)
    if kind == "one choice":
        return torch.randint(num_experts, (tokens, 1), generator=generator)
    if kind == "half have no expert":
        index_TK = torch.randint(num_experts, (tokens, 2), generator=generator)
        return torch.where(torch.rand(tokens, 2, generator=generator) < 0.5, index_TK, -1)
    if kind == "none has an expert":
        return torch.full((tokens, 2), -1)
    highest = num_experts + 4 if kind == "identity" else num_experts
    return torch.randint(highest, (tokens, 3), generator=generator)


def hidden_of(lane: int) -> Tensor:
    return torch.randn(TOKENS + lane, HIDDEN, generator=torch.Generator().manual_seed(1000 + lane))


def weights_of(index_TK: Tensor) -> Tensor:
    return torch.rand(index_TK.shape, generator=torch.Generator().manual_seed(int(index_TK.sum())))


def calls_of(kind: str, lanes: Iterable[int], num_experts: int) -> dict[int, ExpertsCall]:
    calls = {}
    for lane in lanes:
        index_TK = index_of(kind, lane, num_experts)
        calls[lane] = ExpertsCall(0, hidden_of(lane), index_TK, weights_of(index_TK), 0)
    return calls


def serve(rows_RH: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Expert e answers x * (e + 1) + lane / 8."""
    outputs_RH = torch.full_like(rows_RH, float("nan"))
    for block in blocks:
        outputs_RH[block.span] = rows_RH[block.span] * (block.expert + 1) + block.lane / 8
    return outputs_RH


Found = dict[int, tuple[Tensor, Tensor, Tensor]]
"""By lane: the combined outputs, and the gradients of the tokens and of the weights (for gradients of one)."""


def on_one_worker(kind: str, lane: int, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """By the functions of `permute.py`, with nobody to send to."""
    call = calls_of(kind, [lane], num_experts)[lane]
    of = permute.make_routing(call.index, num_experts, kind == "identity")
    blocks = blocks_of(range(num_experts), {lane: of.counts_E.tolist()})
    answers = serve(permute.permute(call.hidden, of), blocks)
    combined = permute.unpermute(answers, call.hidden, call.weights, of)
    dout = torch.ones_like(combined)
    danswers, dweights = combine_backward(dout, answers, call.hidden, call.weights, of)
    factors = torch.repeat_interleave(torch.arange(num_experts) + 1, of.counts_E)
    return combined, permute.permute_backward(danswers * factors[:, None], dout, call.weights, of), dweights


class WorkerEnd:
    """One worker's end of everything: its dispatcher and its exchange of messages."""

    def __init__(self, world: World, plan: Plan, combine: Combine = "at_attention", identity: bool = False) -> None:
        self.world, self.plan = world, plan
        self.exchange = Exchange(world)
        spec = DispatchSpec(HIDDEN, torch.float32, torch.device("cpu"), combine)
        self.dispatcher = Dispatcher(world.rank, plan, spec, identity)
        worker = plan.workers[world.rank]
        self.program = serial(1, 1, worker.role_in_step)

    def round_trip(self, kind: str, absent: frozenset[int] = frozenset()) -> Found:
        lanes = [lane for lane in self.plan.workers[self.world.rank].lanes if lane not in absent]
        calls = calls_of(kind, lanes, self.plan.num_experts)
        self.exchange.expect(self.dispatcher.expected((message, KEY) for message in MessageKind))
        dispatcher, exchange, found = self.dispatcher, self.exchange, {}
        for operation in self.program:
            if operation.kind is Kind.SEND_ROWS:
                handle = dispatcher.begin_call(KEY, calls)
                for kind_back in (MessageKind.OUTPUTS, MessageKind.ROW_GRADIENTS):
                    exchange.make_room(kind_back, KEY, dispatcher.returned(kind_back, handle))
                exchange.send(MessageKind.ROWS, KEY, dispatcher.rows(handle))
            elif operation.kind is Kind.EXPERTS_FORWARD:
                batch = dispatcher.make_batch(KEY, exchange.receive(MessageKind.ROWS, KEY))
                exchange.make_room(MessageKind.OUTPUT_GRADIENTS, KEY, dispatcher.arriving(batch))
                self.check_batch(batch)
                batch.outputs = serve(batch.rows, batch.blocks)
                exchange.send(MessageKind.OUTPUTS, KEY, dispatcher.outputs(batch))
            elif operation.kind is Kind.RECEIVE_OUTPUTS:
                dispatcher.combine(handle, exchange.receive(MessageKind.OUTPUTS, KEY))
                douts = {lane: torch.ones_like(combined) for lane, combined in handle.combined.items()}
                exchange.send(MessageKind.OUTPUT_GRADIENTS, KEY, dispatcher.output_gradients(handle, douts))
            elif operation.kind is Kind.EXPERTS_BACKWARD:
                dispatcher.take_output_gradients(batch, exchange.receive(MessageKind.OUTPUT_GRADIENTS, KEY))
                factors = torch.cat([torch.full((b.count, 1), b.expert + 1.0) for b in batch.blocks] or [batch.rows])
                batch.end_backward(batch.weigh_gradients() * factors, batch.outputs)
                exchange.send(MessageKind.ROW_GRADIENTS, KEY, dispatcher.row_gradients(batch))
            elif operation.kind is Kind.RECEIVE_ROW_GRADIENTS:
                gradients = dispatcher.input_gradients(handle, exchange.receive(MessageKind.ROW_GRADIENTS, KEY))
                found = {lane: (handle.combined[lane], *gradients[lane]) for lane in calls}
        exchange.finish()
        exchange.close()
        return found

    def check_batch(self, batch: ExpertBatch) -> None:
        blocks = batch.blocks
        assert [(b.lane, b.expert) for b in blocks] == sorted({(b.lane, b.expert) for b in blocks}), "lanes in order"
        assert [b.start for b in blocks] == [sum(b.count for b in blocks[:i]) for i in range(len(blocks))]
        own = self.plan.workers[self.world.rank].experts[0]
        assert sum(b.count for b in blocks) == len(batch.rows) and {b.expert for b in blocks} <= set(own)


LAYOUTS = ("BBBB", "AEEE", "AAAE", "ABEE", "EABB", "AEAE")


def every_layout(world: World, plan: Plan, combine: Combine) -> dict[tuple[str, str], Found]:
    """All layouts of four workers and all routings in one set of processes."""
    cases = list(itertools.product(LAYOUTS, ROUTINGS))
    results = {}
    for roles, kind in cases:
        end = WorkerEnd(world, plan_of(roles, LANES, EXPERTS), combine, kind == "identity")
        results[roles, kind] = end.round_trip(kind)
    absent = frozenset({1, 3, 4, 5})
    results["AEAE", "absent lanes"] = WorkerEnd(world, plan_of("AEAE", LANES), combine).round_trip("random", absent)
    return results


def as_arrays(found: dict[tuple[str, str], Found]) -> dict[tuple[str, str], dict[int, list[npt.NDArray[np.float32]]]]:
    return {case: {lane: [t.numpy() for t in of] for lane, of in lanes.items()} for case, lanes in found.items()}


def every_layout_as_arrays(world: World, plan: Plan, combine: Combine) -> Any:
    return as_arrays(every_layout(world, plan, combine))


@pytest.mark.parametrize("combine", ["at_attention", "at_experts"])
def test_every_layout_of_four_workers_and_every_routing_is_one_worker(combine: Combine) -> None:
    """`at_attention` bit by bit, `at_experts` to rounding."""
    results = run_workers(every_layout_as_arrays, plan_of("BBBB"), combine)
    for roles, kind in results[0]:
        lanes = {lane: of for result in results for lane, of in result[roles, kind].items()}
        assert lanes.keys() == ({0, 2} if kind == "absent lanes" else set(range(LANES))), (roles, kind)
        for lane, ours in lanes.items():
            theirs = on_one_worker("random" if kind == "absent lanes" else kind, lane, EXPERTS)
            for a, b in zip(ours, theirs, strict=True):
                same = np.array_equal(a, b.numpy()) if combine == "at_attention" else np.allclose(a, b, atol=1e-5)
                assert same, (roles, kind, lane)


@given(st.integers(1, 12), st.integers(0, 3), st.sampled_from(ROUTINGS))
@settings(max_examples=40, deadline=None)
def test_a_world_of_one_needs_no_messages(num_experts: int, num_absent: int, kind: str) -> None:
    world = World.alone()
    num_experts = max(num_experts, 2) if kind == "one expert gets all" else num_experts
    end = WorkerEnd(world, plan_of("B", LANES, num_experts), identity=kind == "identity")
    found = end.round_trip(kind, frozenset(range(num_absent)))
    assert found.keys() == set(range(num_absent, LANES))
    for lane, ours in found.items():
        assert all(torch.equal(a, b) for a, b in zip(ours, on_one_worker(kind, lane, num_experts), strict=True))
    assert world.sent.total() == 0


def test_what_one_experts_worker_answers_is_not_copied() -> None:
    """Each lane's part is read where the message lies; those of several workers are put together."""
    for roles, is_copied in (("B", False), ("BE", True)):
        end = WorkerEnd(World.alone(), plan_of(roles, LANES, EXPERTS))
        handle = end.dispatcher.begin_call(KEY, calls_of("random", range(LANES), EXPERTS))
        num_rows = sum(crossing.routing.num_rows for crossing in handle.crossings.values())
        values = torch.rand(num_rows, HIDDEN)
        end.dispatcher.combine(handle, Received([values]), True)
        found = handle.outputs
        memory = {part.untyped_storage().data_ptr() for part in found.values()}
        assert (memory != {values.untyped_storage().data_ptr()}) == is_copied
        assert sum(len(part) for part in found.values()) == num_rows
        end.exchange.close()


def out_of_step(world: World, plan: Plan, difference: str) -> str | None:
    """Rank 0, who asks, believes to be elsewhere: what each worker says."""
    end = WorkerEnd(world, plan)
    wrong = world.rank == 0
    if difference == "generation" and wrong:
        world.member = replace(world.member, generation=world.member.generation + 1)
    end.exchange.begin_step(8 if difference == "step" and wrong else 7)
    key = (2 if difference == "site" and wrong else 1, 4 if difference == "microbatch" and wrong else 3)
    end.exchange.expect(end.dispatcher.expected([(MessageKind.ROWS, key)]))
    said = None
    if world.rank == 0:
        handle = end.dispatcher.begin_call(key, calls_of("random", range(LANES), EXPERTS))
        end.exchange.send(MessageKind.ROWS, key, end.dispatcher.rows(handle))
    else:
        try:
            end.exchange.receive(MessageKind.ROWS, key)
        except LaunchError as error:
            said = str(error)
    world.barrier()  # rank 0 stays until its message has been read
    return said


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            "step",
            "worker 0 (east/0) sent a message that worker 1 (east/1) does not expect "
            "(rows of site 1, micro-batch 3): step 8 against 7",
        ),
        (
            "site",
            "worker 0 (east/0) sent a message that worker 1 (east/1) does not expect "
            "(rows of site 1, micro-batch 3): site 2 against 1",
        ),
        ("generation", "(rows of site 1, micro-batch 3): generation 2 against 1; the two do not run the same schedule"),
        ("microbatch", "(rows of site 1, micro-batch 3): microbatch 4 against 3; the two do not run the same schedule"),
    ],
)
def test_a_message_that_is_not_due_is_refused_by_name(difference: str, said: str) -> None:
    first, second = run_workers(out_of_step, plan_of("AE"), difference)
    assert first is None and second is not None and said in second


PARTS = [("at_attention", m, n) for m, size in zip(MessageKind, (2, 1, 2, 1), strict=True) for n in range(size)]
PARTS += [("at_experts", m, n) for m, size in zip(MessageKind, (3, 1, 1, 2), strict=True) for n in range(size)]
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "a row less": lambda values: values[:-1],
    "a row more": lambda values: torch.cat([values, values[:1]]),
    "another dtype": lambda values: values.to(torch.float64),
}


@pytest.mark.parametrize("what", [*CHANGES, "missing", "another split"])
@pytest.mark.parametrize(("combine", "message", "number"), PARTS)
def test_what_the_receivers_make_no_room_for_is_not_sent(
    combine: Combine, message: MessageKind, number: int, what: str
) -> None:
    """Any part of any message; the place and both values are named."""
    spec = DispatchSpec(HIDDEN, torch.float32, torch.device("cpu"), combine, ("first.experts",))
    sizes = Sizes([3, 0], [4, 1], torch.float32)
    parts = [room.allocate(spec.device) for room in spec.rooms(message, sizes)]
    assert len(parts) == spec.num_parts(message)
    spec.check(message, KEY, parts, sizes)
    if what == "missing":
        del parts[number]
    elif what == "another split":
        parts[number] = replace(parts[number], sizes=[*reversed(parts[number].sizes)])
    else:
        parts[number] = replace(parts[number], values=CHANGES[what](parts[number].values))
    with pytest.raises(LaunchError, match=f"are to be sent as {message.value} of site 0 \\(first.experts\\)"):
        spec.check(message, KEY, parts, sizes)
