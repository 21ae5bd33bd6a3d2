"""Runs one worker's program of a step: lets flights go on and walk back, serves experts, and hands
over messages in between.

A program (`schedules`) is a list of operations; here is what each of them does. One thread takes
them in order; messages travel beside it (`Exchange`). Any program that `schedules.check` accepts
gives the same bits: sums have their own order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.accelerators.determinism import refuse_unordered
from dougong.errors import ModelError
from dougong.ops.permute import Routing
from dougong.parallel.dispatch.dispatcher import Dispatcher
from dougong.parallel.dispatch.handle import DispatchHandle, ExpertBatch
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import Received
from dougong.parallel.execute.clock import Clock
from dougong.parallel.execute.emulate import Emulation, lasting
from dougong.parallel.execute.shard import ExpertShard, Keep
from dougong.parallel.plan import Role
from dougong.parallel.schedules.message_order import MessageOrder
from dougong.parallel.schedules.operation import (
    CallKey,
    Kind,
    MessageKind,
    Operation,
    Program,
)
from dougong.parallel.schedules.serial import serial
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import ExpertsCall, Flight, Forward, GradientSink
from dougong.parallel.segments.repeats import LayerRepeats
from dougong.parallel.segments.unit_spans import UnitUse
from dougong.parallel.trace.tracer import Tracer

AfterForward = Callable[[int, Mapping[int, Flight], Sequence[Mapping[int, Routing]]], None]
"""after_forward(micro-batch, flights by lane, routings by lane of every site), called by all
attention workers together between a micro-batch's forward and its backward. It may call a flight's
`add_loss`."""

_FORWARD_MESSAGES = (MessageKind.ROWS, MessageKind.OUTPUTS)


@dataclass
class _MicroBatch:
    """One micro-batch of all local lanes. `handles[site]`: the experts call there, until its
    backward. `douts`: by lane, the gradients of the outputs at the site that is walked back to."""

    flights: dict[int, Flight]
    sinks: dict[int, GradientSink]
    handles: dict[int, DispatchHandle] = field(default_factory=dict)
    douts: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What a step trains on. `forwards(micro-batch)` by local lane; `scale` weighs each loss in the
    gradient; `sink(lane, micro-batch)` takes the gradients as they complete."""

    forwards: Callable[[int], Mapping[int, Forward]]
    scale: float
    sink: Callable[[int, int], GradientSink]


@dataclass(frozen=True)
class ExecutorOptions:
    """What a step does beside its own work, each None for not at all.

    `emulation`: how long the device pretends to take. `after_forward`: called between a
    micro-batch's forward and its backward. `tracer`: is shown what a training step computes on its
    way. `units`: has dense tensors there that come and go.
    """

    emulation: Emulation | None = None
    after_forward: AfterForward | None = None
    tracer: Tracer | None = None
    units: UnitUse | None = None


NO_OPTIONS = ExecutorOptions()


class Executor:
    """One worker's side of a step: attention, experts, or both."""

    def __init__(
        self,
        cut: Cut,
        dispatcher: Dispatcher,
        shard: ExpertShard,
        exchange: Exchange,
        clock: Clock,
        options: ExecutorOptions = NO_OPTIONS,
    ) -> None:
        self._cut, self._dispatcher, self._shard = cut, dispatcher, shard
        self._exchange, self._clock, self._options = exchange, clock, options
        self._emulation = options.emulation or Emulation()
        self._repeats = LayerRepeats() if cut.recomputes else None
        self._units = options.units
        self._actions = self._by_kind()
        self._forget_all()

    def _forget_all(self) -> None:
        """Neither a step nor an evaluation is under way."""
        self._training: Training | None = None
        self._keep = Keep.NOTHING
        self._evaluated: Mapping[int, Forward] = {}
        self._microbatches: dict[int, _MicroBatch] = {}
        self._batches: dict[CallKey, ExpertBatch] = {}
        self._rows_to_add: dict[CallKey, int] = {}
        self._losses: dict[tuple[int, int], Tensor] = {}

    def _by_kind(self) -> dict[Kind, Callable[[int, int], None]]:
        """What is done for each kind of operation: action(segment or site, micro-batch)."""
        return {
            Kind.FORWARD: self._forward,
            Kind.BACKWARD: self._backward,
            Kind.SEND_ROWS: self._send_rows,
            Kind.RECEIVE_OUTPUTS: self._receive_outputs,
            Kind.SEND_OUTPUT_GRADIENTS: self._send_output_gradients,
            Kind.RECEIVE_ROW_GRADIENTS: self._receive_row_gradients,
            Kind.RECEIVE_ROWS: self._receive_rows,
            Kind.EXPERTS_FORWARD: self._experts_forward,
            Kind.SEND_OUTPUTS: self._send_outputs,
            Kind.RECEIVE_OUTPUT_GRADIENTS: self._receive_output_gradients,
            Kind.EXPERTS_BACKWARD: self._experts_backward,
            Kind.WEIGHT_GRADIENTS: self._weight_gradients,
            Kind.SEND_ROW_GRADIENTS: self._send_row_gradients,
        }

    @torch.no_grad()
    def train(
        self, program: Program, order: MessageOrder, training: Training
    ) -> dict[tuple[int, int], Tensor]:
        """A step's forwards and backwards; returns the losses by (lane, micro-batch). Collective.

        `order`: of all workers' messages. The experts' gradients are added in the shard. Raises
        ModelError where a layer that ran again has come to other bits.
        """
        self._training = training
        self._keep = self._what_to_keep(program)
        self._losses = {}
        self._run_all(program.operations, order)
        if self._repeats is not None:
            self._repeats.refuse_others()
        return self._losses

    @torch.no_grad()
    def evaluate(self, role: Role, forwards: Mapping[int, Forward]) -> dict[int, Tensor]:
        """Losses by lane, without gradients. Collective; lanes may be missing from `forwards`."""
        self._training, self._keep = None, Keep.NOTHING
        self._evaluated = forwards
        program = serial(self._cut.num_sites, 1, role)
        places = itertools.product(range(self._cut.num_sites), _FORWARD_MESSAGES)
        order = [(kind, (site, 0)) for site, kind in places]
        forward = [operation for operation in program if _is_forward(operation.kind)]
        self._run_all(forward, order)
        self._batches.clear()
        microbatch = self._microbatches.pop(0, None)
        losses = {}
        for lane, flight in microbatch.flights.items() if microbatch is not None else ():
            assert flight.loss is not None
            losses[lane] = flight.loss.detach()
        return losses

    def _what_to_keep(self, program: Program) -> Keep:
        """Of the experts' forwards: rows alone where layers run again; outputs, too, where a site's
        backward comes before its next forward."""
        if self._cut.recomputes:
            return Keep.ROWS
        return Keep.OUTPUTS if program.waves_of_a_site <= 1 else Keep.ACTIVATIONS

    def _run_all(
        self, operations: Sequence[Operation], order: Sequence[tuple[MessageKind, CallKey]]
    ) -> None:
        self._exchange.expect(self._dispatcher.expected(order))
        for operation in operations:
            self.run_operation(operation)
        with self._clock.exchanging():
            self._exchange.finish()

    def run_operation(self, operation: Operation) -> None:
        """One line of a program, between its beginning and its end.

        Raises ModelError where torch has refused an operator for the order of its sums.
        """
        try:
            self._actions[operation.kind](operation.site, operation.microbatch)
        except RuntimeError as error:
            refuse_unordered(error, f"{operation.kind.words} of {self._place(operation)}")
            raise

    def _place(self, operation: Operation) -> str:
        names = self._cut.names
        return names[operation.site] if operation.site < len(names) else "the last segment"

    # Attention

    def _forward(self, segment: int, microbatch: int) -> None:
        """Run every lane's segment: to the next experts call, or to the loss."""
        with lasting(self._emulation.forward_s()):
            self._note("forward", segment, microbatch)
            if segment == 0:
                self._start(microbatch)
            else:
                self._resume(segment - 1, microbatch)
        if segment == self._cut.num_sites:
            self._end_forward(microbatch)

    def _start(self, microbatch: int) -> None:
        training = self._training
        forwards = self._evaluated if training is None else training.forwards(microbatch)
        flights, sinks = {}, {}
        for lane, forward in forwards.items():
            flights[lane] = Flight(forward, training is not None, self._repeats, self._units)
            if training is not None:
                sinks[lane] = training.sink(lane, microbatch)
        self._microbatches[microbatch] = _MicroBatch(flights, sinks)
        for flight in flights.values():
            flight.start()

    def _resume(self, site: int, microbatch: int) -> None:
        state = self._microbatches[microbatch]
        handle = state.handles[site]
        if self._training is None:
            del state.handles[site]  # there will be no backward to keep it for
        elif self._options.tracer is not None:
            key = site, microbatch
            self._options.tracer.forward(key, handle.calls, handle.routings, handle.outputs)
        handle.outputs.clear()
        if self._cut.forgets_hidden:
            for call in handle.calls.values():
                call.forget_hidden()
        for lane, flight in state.flights.items():
            flight.resume(handle.combined.pop(lane))

    def _end_forward(self, microbatch: int) -> None:
        state = self._microbatches[microbatch]
        for flight in state.flights.values():
            if flight.loss is None:
                raise ModelError(
                    f"the model called its experts more than {self._cut.num_sites} times in one "
                    "forward"
                )
        after_forward = self._options.after_forward
        if self._training is not None and after_forward is not None:
            routings = [state.handles[site].routings for site in sorted(state.handles)]
            after_forward(microbatch, state.flights, routings)

    def _send_rows(self, site: int, microbatch: int) -> None:
        state = self._microbatches[microbatch]
        calls = {lane: self._call(flight, site) for lane, flight in state.flights.items()}
        handle = self._dispatcher.begin_call((site, microbatch), calls)
        state.handles[site] = handle
        returned = [MessageKind.OUTPUTS]
        if self._training is not None:
            returned.append(MessageKind.ROW_GRADIENTS)
        for kind in returned:
            self._exchange.make_room(kind, handle.key, self._dispatcher.returned(kind, handle))
        self._exchange.send(MessageKind.ROWS, handle.key, self._dispatcher.rows(handle))

    def _receive_outputs(self, site: int, microbatch: int) -> None:
        received = self._receive(MessageKind.OUTPUTS, (site, microbatch))
        tracer, handle = self._options.tracer, self._microbatches[microbatch].handles[site]
        self._dispatcher.combine(handle, received, tracer is not None and tracer.active)

    def _backward(self, segment: int, microbatch: int) -> None:
        """Walk back every lane's segment: to the experts call before it, or to the beginning."""
        state = self._microbatches[microbatch]
        with lasting(self._emulation.backward_s()):
            self._note("backward", segment, microbatch)
            if segment == self._cut.num_sites:
                self._begin_backward(microbatch, state)
            for lane, flight in state.flights.items():
                if segment == 0:
                    flight.end_backward(state.sinks[lane])
                else:
                    _, state.douts[lane] = flight.backward_to_call(state.sinks[lane])
        if segment == 0:
            del self._microbatches[microbatch]

    def _begin_backward(self, microbatch: int, state: _MicroBatch) -> None:
        assert self._training is not None
        losses = {}
        for lane, flight in state.flights.items():
            losses[lane] = flight.begin_backward(self._training.scale, state.sinks[lane])
            self._losses[lane, microbatch] = losses[lane]
        if self._options.tracer is not None:
            self._options.tracer.losses(microbatch, self._cut.num_sites, losses)

    def _send_output_gradients(self, site: int, microbatch: int) -> None:
        state = self._microbatches[microbatch]
        outgoing = self._dispatcher.output_gradients(state.handles[site], dict(state.douts))
        self._exchange.send(MessageKind.OUTPUT_GRADIENTS, (site, microbatch), outgoing)

    def _receive_row_gradients(self, site: int, microbatch: int) -> None:
        state = self._microbatches[microbatch]
        received = self._receive(MessageKind.ROW_GRADIENTS, (site, microbatch))
        handle = state.handles.pop(site)
        gradients = self._dispatcher.input_gradients(handle, received)
        if self._options.tracer is not None:
            _trace_backward(self._options.tracer, handle)
        for lane, (dhidden, dweights) in gradients.items():
            state.flights[lane].add_input_gradients(handle.calls[lane], dhidden, dweights)

    # Experts

    def _receive_rows(self, site: int, microbatch: int) -> None:
        key = site, microbatch
        batch = self._dispatcher.make_batch(key, self._receive(MessageKind.ROWS, key))
        self._batches[key] = batch
        if self._training is not None:
            arriving = self._dispatcher.arriving(batch)
            self._exchange.make_room(MessageKind.OUTPUT_GRADIENTS, key, arriving)

    def _experts_forward(self, site: int, microbatch: int) -> None:
        batch = self._batches[site, microbatch]
        with lasting(self._emulation.experts_s(batch.num_rows)):
            self._note("forward", site, microbatch)
            batch.outputs = self._shard.forward(batch.key, batch.rows, batch.blocks, self._keep)
        del batch.rows

    def _send_outputs(self, site: int, microbatch: int) -> None:
        batch = self._batches[site, microbatch]
        self._exchange.send(MessageKind.OUTPUTS, batch.key, self._dispatcher.outputs(batch))
        del batch.outputs

    def _receive_output_gradients(self, site: int, microbatch: int) -> None:
        received = self._receive(MessageKind.OUTPUT_GRADIENTS, (site, microbatch))
        self._dispatcher.take_output_gradients(self._batches[site, microbatch], received)

    def _experts_backward(self, site: int, microbatch: int) -> None:
        batch = self._batches[site, microbatch]
        with lasting(self._emulation.experts_s(batch.num_rows)):
            self._note("backward", site, microbatch)
            found = self._shard.backward(batch.key, batch.weigh_gradients())
            batch.end_backward(*found)
        # The batch itself goes with its rows' gradients, which are sent before those of weights.
        self._rows_to_add[batch.key] = batch.num_rows

    def _weight_gradients(self, site: int, microbatch: int) -> None:
        num_rows = self._rows_to_add.pop((site, microbatch))
        with lasting(self._emulation.experts_s(num_rows)):
            self._shard.add_weights((site, microbatch))
        if self._options.tracer is not None:
            key, module = (site, microbatch), self._cut.names[site]
            self._options.tracer.experts(key, module, self._shard.gradients[site])

    def _send_row_gradients(self, site: int, microbatch: int) -> None:
        batch = self._batches.pop((site, microbatch))
        outgoing = self._dispatcher.row_gradients(batch)
        self._exchange.send(MessageKind.ROW_GRADIENTS, batch.key, outgoing)

    # Both

    def _receive(self, kind: MessageKind, key: CallKey) -> Received:
        with self._clock.exchanging():
            return self._exchange.receive(kind, key)

    def _note(self, phase: str, number: int, microbatch: int) -> None:
        """Where this worker is: a segment or a site of a micro-batch, counted over the step."""
        self._clock.note(phase, microbatch * self._cut.num_segments + number)

    def _call(self, flight: Flight, site: int) -> ExpertsCall:
        name = self._cut.names[site]
        if flight.loss is not None:
            raise ModelError(
                f"the model ended its forward without calling {name}; it cannot be cut at its "
                "experts"
            )
        call = flight.calls[-1]
        if call.site != site:
            called = self._cut.names[call.site]
            raise ModelError(f"the model called {called} where {name} was due")
        return call


def _trace_backward(tracer: Tracer, handle: DispatchHandle) -> None:
    """Show an experts call's gradients, of all local lanes."""
    gradients = {lane: (dout, handle.dweights[lane]) for lane, dout in handle.douts.items()}
    tracer.backward(handle.key, gradients, handle.routings, handle.drows)


def _is_forward(kind: Kind) -> bool:
    if kind.computes:
        return kind in (Kind.FORWARD, Kind.EXPERTS_FORWARD)
    return kind.message in _FORWARD_MESSAGES
