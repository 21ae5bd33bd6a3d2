"""Runs a step's micro-batches: resumes flights and walks, and moves rows between them and the experts.

Micro-batches are taken in order, all local lanes of one micro-batch together. A worker without lanes only serves
experts; one without experts only sends. The order in which things run never changes a bit: sums have their own order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.errors import ModelError
from dougong.ops import routing as ops
from dougong.ops.routing import Routing
from dougong.parallel.dispatch import Dispatcher, Handle
from dougong.parallel.flight import ExpertsCall, Flight, Forward, HandOut
from dougong.parallel.shard import ExpertShard, Key
from dougong.parallel.tape import Node
from dougong.parallel.tracer import Tracer

AfterForward = Callable[[int, Mapping[int, Flight], Sequence[Mapping[int, Routing]]], None]
"""after_forward(micro-batch, flights by lane, routings by lane of every site), called by all workers together between a
micro-batch's forward and its backward. It may set a flight's `extra_loss`."""


@dataclass(frozen=True)
class Cut:
    """Where the model is cut: its sites in call order, and what the executor must know of them."""

    names: tuple[str, ...]
    num_experts: int
    has_identity: bool
    shared_leaves: frozenset[Node] = frozenset()


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
class _Wave:
    """One micro-batch of all local lanes, between its forward and its backward."""

    flights: dict[int, Flight]
    stops: list[_Stop] = field(default_factory=list)


@dataclass
class _Stop:
    handle: Handle
    routings: dict[int, Routing]
    answers: dict[int, Tensor]


class Executor:
    """Forward and backward of whole micro-batches over one worker's lanes and experts."""

    def __init__(self, cut: Cut, dispatcher: Dispatcher, shard: ExpertShard, clock: Clock) -> None:
        self._cut = cut
        self._dispatcher = dispatcher
        self._shard = shard
        self._clock = clock
        self.after_forward: AfterForward = lambda microbatch, flights, routings: None
        self.tracer: Tracer | None = None

    def evaluate(self, microbatch: int, forwards: Mapping[int, Forward]) -> dict[int, Tensor]:
        """Losses by lane, without gradients. Collective; lanes may be missing from `forwards`."""
        wave = self._forward(microbatch, forwards, False)
        return {lane: f.loss.detach() for lane, f in wave.flights.items() if f.loss is not None}

    def train(
        self, microbatch: int, forwards: Mapping[int, Forward], scale: float, hand_out: Callable[[int], HandOut]
    ) -> dict[int, Tensor]:
        """Forward and backward of one micro-batch; returns the losses by lane. Collective.

        `scale` weighs the loss in the gradient. `hand_out(lane)` receives (leaf node, gradient) as they complete;
        the experts' gradients are added in the shard.
        """
        with torch.no_grad():
            wave = self._forward(microbatch, forwards, True)
            self.after_forward(microbatch, wave.flights, [stop.routings for stop in wave.stops])
            losses = {lane: flight.begin_backward(scale) for lane, flight in wave.flights.items()}
            if self.tracer is not None:
                self.tracer.losses(microbatch, len(self._cut.names), losses)
            takers = {lane: hand_out(lane) for lane in wave.flights}
            for site in reversed(range(len(self._cut.names))):
                self._clock.note("backward", microbatch * len(self._cut.names) + site)
                self._backward_through_site((site, microbatch), wave, takers)
            for lane, flight in wave.flights.items():
                flight.end_backward(takers[lane])
        return losses

    def _forward(self, microbatch: int, forwards: Mapping[int, Forward], keep: bool) -> _Wave:
        shared = self._cut.shared_leaves
        wave = _Wave({lane: Flight(forward, shared, keep) for lane, forward in forwards.items()})
        for flight in wave.flights.values():
            flight.start()
        for site in range(len(self._cut.names)):
            self._clock.note("forward", microbatch * len(self._cut.names) + site)
            stop = self._forward_through_site((site, microbatch), wave, keep)
            if keep:
                wave.stops.append(stop)
        for flight in wave.flights.values():
            if flight.loss is None:
                raise ModelError(f"the model called its experts more than {len(self._cut.names)} times in one forward")
        return wave

    def _forward_through_site(self, key: Key, wave: _Wave, keep: bool) -> _Stop:
        calls = {lane: self._call(flight, key[0]) for lane, flight in wave.flights.items()}
        num_experts, identity = self._cut.num_experts, self._cut.has_identity
        routings = {lane: ops.make_routing(c.index, num_experts, identity) for lane, c in calls.items()}
        rows = {lane: ops.dispatch_rows(c.hidden.detach(), routings[lane]) for lane, c in calls.items()}
        with self._clock.exchanging():
            handle = self._dispatcher.announce(key, routings)
            arrived = self._dispatcher.to_experts(handle, rows)
        served = self._shard.forward(key, arrived, handle.blocks, keep)
        with self._clock.exchanging():
            answers = self._dispatcher.to_attention(handle, served)
        if self.tracer is not None and keep:
            self.tracer.forward(key, calls, routings, answers)
        for lane, flight in wave.flights.items():
            call = calls[lane]
            with torch.no_grad():
                combined = ops.combine_rows(answers[lane], call.hidden, call.weights, routings[lane])
            flight.resume(combined)
        return _Stop(handle, routings, answers)

    def _backward_through_site(self, key: Key, wave: _Wave, takers: Mapping[int, HandOut]) -> None:
        stop = wave.stops.pop()
        calls: dict[int, tuple[ExpertsCall, Tensor]] = {}
        rows, dweights = {}, {}
        for lane, flight in wave.flights.items():
            call, dout = calls[lane] = flight.backward_to_call(takers[lane])
            rows[lane], dweights[lane] = ops.combine_backward(
                dout, stop.answers.pop(lane), call.hidden, call.weights, stop.routings[lane]
            )
        with self._clock.exchanging():
            arrived = self._dispatcher.to_experts(stop.handle, rows)
        served = self._shard.backward(key, arrived)
        with self._clock.exchanging():
            drows = self._dispatcher.to_attention(stop.handle, served)
        if self.tracer is not None:
            gradients = {lane: (dout, dweights[lane]) for lane, (_, dout) in calls.items()}
            self.tracer.backward(key, gradients, stop.routings, drows)
        for lane, flight in wave.flights.items():
            call, dout = calls[lane]
            dhidden = ops.dispatch_backward(drows[lane], dout, call.weights, stop.routings[lane])
            flight.take_back(call, dhidden, dweights[lane])

    def _call(self, flight: Flight, site: int) -> ExpertsCall:
        name = self._cut.names[site]
        if flight.loss is not None:
            raise ModelError(f"the model ended its forward without calling {name}; it cannot be cut at its experts")
        call = flight.calls[-1]
        if call.site != site:
            raise ModelError(f"the model called {self._cut.names[call.site]} where {name} was due")
        return call
