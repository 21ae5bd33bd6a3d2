"""One worker computes the part of another one: the same plan, in other hands.

Its lanes, its experts, and the sums and updates of the tensors that it owns. What travels for it,
and the messages of the step, go through `parallel.exchange.recast`. Collective throughout: all
workers call the same methods in the same order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dougong.models.inventory import inventory_of
from dougong.ops.bit_sum import WRAP, bit_sums
from dougong.parallel.comm.route import Route
from dougong.parallel.comm.tally import MessageTally
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import place_in_words
from dougong.parallel.exchange.recast import RecastWorld
from dougong.parallel.execute.clock import Clock
from dougong.parallel.execute.executor import Executor, ExecutorOptions
from dougong.planner.needs.audit_bytes import PIECE_BYTES
from dougong.planner.needs.programs import programs_of
from dougong.training.build import dense_gradients, expert_shard, make_dispatcher
from dougong.training.forwards import Forwards
from dougong.training.hooks import StepHooks
from dougong.training.integrity.cross_check import CrossCheck
from dougong.training.integrity.verdict import (
    GRADIENTS,
    LOSSES,
    MESSAGES,
    SUMS,
    UPDATE,
    Computed,
    Place,
)
from dougong.training.memory.source import StateKey
from dougong.training.optimizers.registry import make_optimizer
from dougong.training.replica import ModelBlueprint
from dougong.training.results.reports import LossKey, StepResult, clip_scale
from dougong.training.step import StepGradients, StepParts, Stepper

Experts = list[dict[int, dict[str, Tensor]]]


class Takeover:
    """This worker's computing of another one's part. Needs the memory of that one's experts and of
    a second set of their gradients, until `close`.

    gradients, losses   of that part, as `compute` has found them
    part_of             by rank, whose part that worker computes
    comparison          of what two have computed
    """

    def __init__(self, stepper: Stepper, forwards: Forwards, part_of: Sequence[int]) -> None:
        self.part_of = part_of
        self.gradients: Mapping[str, Tensor] = {}
        self.losses: Mapping[LossKey, float] = {}
        self._parts, self._forwards = stepper.parts, forwards
        self._real, self._plan = stepper.parts.world, stepper.parts.share.plan
        self._part = part_of[self._real.rank]
        self._auditor = part_of.index(self._real.rank)
        self.comparison = CrossCheck(self._real, part_of)
        self._world = RecastWorld(self._real, part_of)
        self._stepper = self._build()

    def close(self) -> None:
        """End its threads. Nothing may be under way."""
        self._world.close()

    def compute(self, step: int) -> Computed:
        """The step, up to its gradients, with the weights as they are now."""
        self._fetch_experts(self._stepper.parts.share.replica.experts)
        tally = self._world.tally
        tally.is_on = True
        tally.begin()
        lanes = self._plan.workers[self._part].lanes
        gathers = self._parts.gathers
        aside = gathers.aside() if gathers is not None else contextlib.nullcontext()
        with self._parts.balance.aside(), aside:
            found = self._stepper.gradients(step, self._forwards.of_step(step, lanes))
        self.gradients, self.losses = found.tensors, found.losses
        return computed_by(self._parts, tally, found)

    def update(self, result: StepResult) -> Computed:
        """What comes of the part's state, as it is now, and of `gradients`. It is thrown away."""
        job = self._parts.share.blueprint.job
        gradients = dict(self.gradients)
        scale = clip_scale(result.grad_norm, job.optimizer.clip_norm)
        if scale != 1.0 and gradients:
            torch._foreach_mul_(list(gradients.values()), scale)
        mine, theirs = self._pieces(self._real.rank), self._pieces(self._part)
        updated: dict[Place, int] = {}
        for number in range(max(len(mine), len(theirs))):
            leaving = mine[number] if number < len(mine) else ()
            coming = theirs[number] if number < len(theirs) else ()
            masters, moments = self._swap_state(leaving, coming)
            optimizer = make_optimizer(job, masters, self._parts.share.replica.shapes)
            for (kind, name), value in moments.items():
                optimizer.load(kind, name, value)
            reached = result.with_gradient({name: gradients[name] for name in coming})
            optimizer.step(reached, result.rate)
            state = {("weight", name): master for name, master in masters.items()}
            state |= {(kind, name): value for kind, name, value in optimizer.state()}
            updated |= _numbers(state)
        return Computed(updated)

    def _build(self) -> Stepper:
        """A stepper for the part that was taken over. It computes with the same dense weights, and
        with experts of its own."""
        parts, plan, part, world = self._parts, self._plan, self._part, self._world
        share, blueprint = parts.share, parts.share.blueprint
        experts = share.replica.experts if part == self._real.rank else self._room_for_experts()
        replica = dataclasses.replace(share.replica, experts=experts)
        share = dataclasses.replace(
            share,
            rank=part,
            replica=replica,
            shard=expert_shard(blueprint, experts),
            dispatcher=make_dispatcher(blueprint, plan, part, replica),
            program=programs_of(blueprint.job, plan)[part],
        )
        clock, exchange = Clock(note=parts.phases.note), Exchange(world, None, replica.cut.names)
        options = ExecutorOptions(after_forward=parts.balance.after_forward, units=parts.gathers)
        again = StepParts(
            share=share,
            world=world,
            phases=parts.phases,
            clock=clock,
            exchange=exchange,
            gradients=dense_gradients(share, world),
            executor=Executor(replica.cut, share.dispatcher, share.shard, exchange, clock, options),
            balance=parts.balance,
            ledger=None,
            hooks=StepHooks(),
            tracer=None,
            memory=None,
            gathers=parts.gathers,
        )
        return Stepper(again)

    def _room_for_experts(self) -> Experts:
        blueprint = self._parts.share.blueprint
        inventory = inventory_of(blueprint.config, blueprint.model, blueprint.sites)
        shapes = dict(inventory.expert_shapes)
        room: Experts = []
        for owned in self._plan.workers[self._part].experts:
            of_site = {}
            for expert in owned:
                of_site[expert] = {
                    name: _room_on(blueprint, name, shape) for name, shape in shapes.items()
                }
            room.append(of_site)
        return room

    def _fetch_experts(self, room: Experts) -> None:
        self._swap(_tensors_of(self._parts.share.replica.experts), _tensors_of(room))

    def _pieces(self, part: int) -> list[tuple[str, ...]]:
        """The names of the tensors that a worker trains, some at a time."""
        names = self._parts.share.forms[part].squares
        pieces: list[tuple[str, ...]] = []
        piece: list[str] = []
        num_bytes = 0
        for name in names:
            piece.append(name)
            num_bytes += 12 * self._numel(part, name)
            if num_bytes >= PIECE_BYTES:
                pieces.append(tuple(piece))
                piece, num_bytes = [], 0
        return [*pieces, tuple(piece)] if piece else pieces

    def _numel(self, part: int, name: str) -> int:
        if part == self._part:
            return self.gradients[name].numel()
        return self._parts.share.replica.masters[name].numel()

    def _swap_state(
        self, leaving: Sequence[str], coming: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[StateKey, Tensor]]:
        """Send own masters and moments of these names to the auditor, and take those of the other
        part. What a tensor has not got yet does not come."""
        share = self._parts.share
        known = {(kind, name): value for kind, name, value in share.optimizer.state()}
        like = {kind.name: kind.like_parameter for kind in share.optimizer.declaration.state_kinds}
        sent_keys = list(itertools.product(like, leaving))
        keys = list(itertools.product(like, coming))
        flags = torch.tensor([key in known for key in sent_keys], dtype=torch.uint8)
        are_there = torch.zeros(len(keys), dtype=torch.uint8)
        self._swap([flags], [are_there])
        masters = {name: self._room(self.gradients[name].shape) for name in coming}
        moments: dict[StateKey, Tensor] = {}
        for key in itertools.compress(keys, are_there.tolist()):
            kind, name = key
            moments[key] = self._room_for_state(masters[name].shape if like[kind] else None)
        sent = [share.replica.masters[name] for name in leaving]
        sent += [known[key] for key in sent_keys if key in known]
        self._swap(sent, [*masters.values(), *moments.values()])
        return masters, moments

    def _room_for_state(self, shape: torch.Size | None) -> Tensor:
        """For what the optimizer keeps of a tensor of this shape; None: for a number."""
        if shape is None:
            return self._room(torch.Size())
        return self._room(shape, self._parts.share.optimizer.state_dtype)

    def _room(self, shape: torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
        """For a tensor of the state, where masters lie."""
        return torch.empty(shape, dtype=dtype, device=self._parts.share.blueprint.master_device)

    def _swap(self, leaving: Sequence[Tensor], rooms: Sequence[Tensor]) -> None:
        """Send own tensors to the auditor, and fill the rooms with those of the other part.
        Collective."""
        world = self._real
        if self._part == world.rank:
            for sent, room in zip(leaving, rooms, strict=True):
                if room is not sent:
                    room.copy_(sent)
            return
        landings = [torch.empty(room.shape, dtype=room.dtype) for room in rooms]
        sends = [Transfer(self._auditor, t.cpu(), tag) for tag, t in enumerate(leaving)]
        receives = [Transfer(self._part, t, tag) for tag, t in enumerate(landings)]
        world.move(Route(world.everybody), sends, receives, f"an audit, step {world.step}")
        for landing, room in zip(landings, rooms, strict=True):
            room.copy_(landing)


def _room_on(blueprint: ModelBlueprint, parameter: str, shape: tuple[int, ...]) -> Tensor:
    dtype = blueprint.expert_dtype(parameter)
    return torch.empty(shape, dtype=dtype, device=blueprint.device)


def computed_by(parts: StepParts, tally: MessageTally, found: StepGradients) -> Computed:
    """What a computation came to: the messages that it sent, its losses and its gradients."""
    order = _message_order(parts)
    numbers: dict[Place, int] = {}
    for (what, peer, is_sent), value in tally.by_message().items():
        if is_sent:
            stage = MESSAGES if what in order else SUMS
            numbers[stage, order.get(what, 0), f"{what}, to worker {peer}"] = value
    for (lane, microbatch), loss in found.losses.items():
        place = LOSSES, 0, f"the loss of lane {lane} micro-batch {microbatch}"
        numbers[place] = int.from_bytes(struct.pack("<d", loss), "little")
    sums = bit_sums(list(found.tensors.values())).tolist()
    for name, value in zip(found.tensors, sums, strict=True):
        numbers[GRADIENTS, 0, f"the gradient of {name}"] = value % WRAP
    return Computed(numbers)


def _message_order(parts: StepParts) -> dict[str, int]:
    """When each message is sent, by what it is called."""
    names, found = parts.share.replica.cut.names, {}
    for number, (kind, key) in enumerate(parts.share.message_order):
        found[f"{kind.value} of {place_in_words(key, names)}"] = number
    return found


def state_numbers(parts: StepParts) -> Computed:
    """Of this worker's own weights and moments, as they are now."""
    share = parts.share
    state = {("weight", name): share.replica.masters[name] for name in share.optimizer.names}
    state |= {(kind, name): value for kind, name, value in share.optimizer.state()}
    return Computed(_numbers(state))


def _tensors_of(experts: Experts) -> list[Tensor]:
    found: list[Tensor] = []
    for of_site in experts:
        for tensors in of_site.values():
            found += [tensors[name] for name in sorted(tensors)]
    return found


def _numbers(state: Mapping[tuple[str, str], Tensor]) -> dict[Place, int]:
    sums = bit_sums(list(state.values())).tolist()
    found: dict[Place, int] = {}
    for (kind, name), value in zip(state, sums, strict=True):
        found[UPDATE, 0, f"the {kind} of {name}"] = value % WRAP
    return found
