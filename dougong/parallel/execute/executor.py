"""Runs one worker's program of a step: resumes flights and walks, serves experts, and writes
letters in between.

A program (`schedules`) is a list of operations; here is what each of them does. One thread takes
them in order; letters travel beside it (`mail`). Any program that `schedules.check` accepts gives
the same bits: sums have their own order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.errors import ModelError
from dougong.ops.permute import Routing
from dougong.parallel.comm.exchange import Exchange
from dougong.parallel.dispatch.dispatcher import Dispatcher, DispatchHandle, ExpertBatch
from dougong.parallel.execute.emulate import Emulation, lasting
from dougong.parallel.execute.shard import ExpertShard
from dougong.parallel.schedules.operation import CallKey, Kind, MessageKind, Program
from dougong.parallel.schedules.serial import serial
from dougong.parallel.segments.cut import Cut
from dougong.parallel.segments.flight import ExpertsCall, Flight, Forward, GradientSink
from dougong.parallel.trace.tracer import Tracer

AfterForward = Callable[[int, Mapping[int, Flight], Sequence[Mapping[int, Routing]]], None]
"""after_forward(micro-batch, flights by lane, routings by lane of every site), called by all
attention workers together between a micro-batch's forward and its backward. It may set a flight's
`extra_loss`."""


@dataclass
class Clock:
    """Seconds that this worker spent waiting for messages, and a note of where it is."""

    note: Callable[[str, int], None] = lambda phase, operation: None
    exchange_s: float = 0.0

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.exchange_s += time.perf_counter() - begun


@dataclass
class _MicroBatch:
    """One micro-batch of all local lanes. `asked[site]`: the experts call there, until its
    backward."""

    flights: dict[int, Flight]
    takers: dict[int, GradientSink]
    asked: dict[int, DispatchHandle] = field(default_factory=dict)
    douts: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What a step trains on. `forwards(micro-batch)` by local lane; `scale` weighs each loss in the
    gradient; `sink(lane, micro-batch)` receives (leaf node, gradient) as they complete."""

    forwards: Callable[[int], Mapping[int, Forward]]
    scale: float
    sink: Callable[[int, int], GradientSink]


class Executor:
    """One worker's side of a step: attention, experts, or both."""

    def __init__(  # noqa: PLR0913  (the parts of a step, and who may look on)
        self,
        cut: Cut,
        dispatcher: Dispatcher,
        shard: ExpertShard,
        exchange: Exchange,
        clock: Clock,
        *,
        emulation: Emulation | None = None,
        after_forward: AfterForward | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`after_forward` (None: nothing) is called between a micro-batch's forward and its
        backward; `tracer` is shown what a training step computes on its way."""
        self._cut, self._dispatcher, self._shard = cut, dispatcher, shard
        self._mail, self._clock = exchange, clock
        self._after_forward = after_forward
        self._tracer = tracer
        self._emulation = emulation or Emulation()
        self._waves: dict[int, _MicroBatch] = {}
        self._served: dict[CallKey, ExpertBatch] = {}
        self._weights_due: dict[CallKey, int] = {}
        self._losses: dict[tuple[int, int], Tensor] = {}
        self._run: dict[Kind, Callable[[int, int], None]] = {
            Kind.FORWARD: self._forward,
            Kind.BACKWARD: self._backward,
            Kind.SEND_ROWS: self._send_rows,
            Kind.RECEIVE_OUTPUTS: self._receive_answers,
            Kind.SEND_OUTPUT_GRADIENTS: self._send_answer_gradients,
            Kind.RECEIVE_ROW_GRADIENTS: self._receive_row_gradients,
            Kind.RECEIVE_ROWS: self._receive_rows,
            Kind.EXPERTS_FORWARD: self._experts_forward,
            Kind.SEND_OUTPUTS: self._send_answers,
            Kind.RECEIVE_OUTPUT_GRADIENTS: self._receive_answer_gradients,
            Kind.EXPERTS_BACKWARD: self._experts_backward,
            Kind.WEIGHT_GRADIENTS: self._weight_gradients,
            Kind.SEND_ROW_GRADIENTS: self._send_row_gradients,
        }

    @torch.no_grad()
    def train(self, program: Program, training: Training) -> dict[tuple[int, int], Tensor]:
        """A step's forwards and backwards; returns the losses by (lane, micro-batch). Collective.

        The experts' gradients are added in the shard.
        """
        self._training: Training | None = training
        self._losses = {}
        self._go(program)
        return self._losses

    @torch.no_grad()
    def evaluate(self, role: str, forwards: Mapping[int, Forward]) -> dict[int, Tensor]:
        """Losses by lane, without gradients. Collective; lanes may be missing from `forwards`."""
        self._training = None
        self._evaluated = forwards
        operations = serial(len(self._cut.names), 1, role)  # type: ignore[arg-type]
        forward = {Kind.FORWARD, Kind.EXPERTS_FORWARD}
        forward |= {
            k for k in Kind if (k.sends or k.receives) in (MessageKind.ROWS, MessageKind.OUTPUTS)
        }
        self._go(Program("", role, tuple(o for o in operations if o.kind in forward)))  # type: ignore[arg-type]
        wave = self._waves.pop(0, None)
        self._served.clear()
        return (
            {lane: f.loss.detach() for lane, f in wave.flights.items() if f.loss is not None}
            if wave
            else {}
        )

    def _go(self, program: Program) -> None:
        for message in MessageKind:
            self._mail.expect(message, self._dispatcher.due(message, program.operations))
        for operation in program.operations:
            self._run[operation.kind](operation.site, operation.microbatch)
        with self._clock.exchanging():
            self._mail.finish()

    # Attention

    def _forward(self, segment: int, microbatch: int) -> None:
        """Run every lane's segment: to the next experts call, or to the loss."""
        with lasting(self._emulation.forward_s()):
            self._clock.note("forward", microbatch * (len(self._cut.names) + 1) + segment)
            if segment == 0:
                self._start(microbatch)
            else:
                self._resume(segment - 1, microbatch)
        if segment == len(self._cut.names):
            self._end_forward(microbatch)

    def _start(self, microbatch: int) -> None:
        training, shared = self._training, self._cut.shared_leaves
        forwards = training.forwards(microbatch) if training is not None else self._evaluated
        flights = {
            lane: Flight(forward, shared, training is not None)
            for lane, forward in forwards.items()
        }
        takers = (
            {lane: training.sink(lane, microbatch) for lane in flights}
            if training is not None
            else {}
        )
        self._waves[microbatch] = _MicroBatch(flights, takers)
        for flight in flights.values():
            flight.start()

    def _resume(self, site: int, microbatch: int) -> None:
        wave = self._waves[microbatch]
        sent = wave.asked[site] if self._training is not None else wave.asked.pop(site)
        if self._tracer is not None and self._training is not None:
            self._tracer.forward((site, microbatch), sent.calls, sent.routings, sent.answers)
        for lane, flight in wave.flights.items():
            flight.resume(sent.combined.pop(lane))

    def _end_forward(self, microbatch: int) -> None:
        wave = self._waves[microbatch]
        for flight in wave.flights.values():
            if flight.loss is None:
                raise ModelError(
                    f"the model called its experts more than {len(self._cut.names)} times in one forward"
                )
        if self._training is not None and self._after_forward is not None:
            self._after_forward(
                microbatch, wave.flights, [wave.asked[site].routings for site in sorted(wave.asked)]
            )

    def _send_rows(self, site: int, microbatch: int) -> None:
        wave = self._waves[microbatch]
        calls = {lane: self._call(flight, site) for lane, flight in wave.flights.items()}
        sent = wave.asked[site] = self._dispatcher.ask((site, microbatch), calls)
        self._mail.send(MessageKind.ROWS, (site, microbatch), self._dispatcher.rows(sent))

    def _receive_answers(self, site: int, microbatch: int) -> None:
        with self._clock.exchanging():
            letters = self._mail.receive(MessageKind.OUTPUTS, (site, microbatch))
        self._dispatcher.take_answers(self._waves[microbatch].asked[site], letters)

    def _backward(self, segment: int, microbatch: int) -> None:
        """Walk back every lane's segment: to the experts call before it, or to the beginning."""
        wave = self._waves[microbatch]
        with lasting(self._emulation.backward_s()):
            self._clock.note("backward", microbatch * (len(self._cut.names) + 1) + segment)
            if segment == len(self._cut.names):
                self._begin_backward(microbatch, wave)
            for lane, flight in wave.flights.items():
                if segment == 0:
                    flight.end_backward(wave.takers[lane])
                else:
                    _, wave.douts[lane] = flight.backward_to_call(wave.takers[lane])
        if segment == 0:
            del self._waves[microbatch]

    def _begin_backward(self, microbatch: int, wave: _MicroBatch) -> None:
        assert self._training is not None
        losses = {
            lane: flight.begin_backward(self._training.scale)
            for lane, flight in wave.flights.items()
        }
        if self._tracer is not None:
            self._tracer.losses(microbatch, len(self._cut.names), losses)
        self._losses |= {(lane, microbatch): loss for lane, loss in losses.items()}

    def _send_answer_gradients(self, site: int, microbatch: int) -> None:
        wave = self._waves[microbatch]
        letters = self._dispatcher.answer_gradients(wave.asked[site], dict(wave.douts))
        self._mail.send(MessageKind.OUTPUT_GRADIENTS, (site, microbatch), letters)

    def _receive_row_gradients(self, site: int, microbatch: int) -> None:
        wave = self._waves[microbatch]
        with self._clock.exchanging():
            letters = self._mail.receive(MessageKind.ROW_GRADIENTS, (site, microbatch))
        sent = wave.asked.pop(site)
        gradients = self._dispatcher.take_row_gradients(sent, letters)
        if self._tracer is not None:
            traced = {lane: (dout, sent.dweights[lane]) for lane, dout in sent.douts.items()}
            self._tracer.backward((site, microbatch), traced, sent.routings, sent.drows)
        for lane, (dhidden, dweights) in gradients.items():
            wave.flights[lane].take_back(sent.calls[lane], dhidden, dweights)

    # Experts

    def _receive_rows(self, site: int, microbatch: int) -> None:
        with self._clock.exchanging():
            letters = self._mail.receive(MessageKind.ROWS, (site, microbatch))
        self._served[site, microbatch] = self._dispatcher.open((site, microbatch), letters)

    def _experts_forward(self, site: int, microbatch: int) -> None:
        served = self._served[site, microbatch]
        with lasting(self._emulation.experts_s(len(served.rows))):
            self._clock.note("forward", microbatch * (len(self._cut.names) + 1) + site)
            keep = self._training is not None
            served.answers = self._shard.forward(
                (site, microbatch), served.rows, served.blocks, keep
            )

    def _send_answers(self, site: int, microbatch: int) -> None:
        letters = self._dispatcher.answers(self._served[site, microbatch])
        self._mail.send(MessageKind.OUTPUTS, (site, microbatch), letters)

    def _receive_answer_gradients(self, site: int, microbatch: int) -> None:
        with self._clock.exchanging():
            letters = self._mail.receive(MessageKind.OUTPUT_GRADIENTS, (site, microbatch))
        self._dispatcher.open_gradients(self._served[site, microbatch], letters)

    def _experts_backward(self, site: int, microbatch: int) -> None:
        served = self._served[site, microbatch]
        with lasting(self._emulation.experts_s(len(served.rows))):
            self._clock.note("backward", microbatch * (len(self._cut.names) + 1) + site)
            served.drows = self._shard.backward((site, microbatch), served.danswers)
        self._weights_due[site, microbatch] = len(served.rows)

    def _weight_gradients(self, site: int, microbatch: int) -> None:
        num_rows = self._weights_due.pop((site, microbatch))
        with lasting(self._emulation.experts_s(num_rows)):
            self._shard.add_weights((site, microbatch))

    def _send_row_gradients(self, site: int, microbatch: int) -> None:
        letters = self._dispatcher.row_gradients(self._served.pop((site, microbatch)))
        self._mail.send(MessageKind.ROW_GRADIENTS, (site, microbatch), letters)

    def _call(self, flight: Flight, site: int) -> ExpertsCall:
        name = self._cut.names[site]
        if flight.loss is not None:
            raise ModelError(
                f"the model ended its forward without calling {name}; it cannot be cut at its experts"
            )
        call = flight.calls[-1]
        if call.site != site:
            raise ModelError(f"the model called {self._cut.names[call.site]} where {name} was due")
        return call
