"""What is computed once is computed a second time, by another worker, before the step is committed.

Each worker takes over the part of another one of its kind (`parallel.exchange.recast`): its lanes,
its experts, and the sums and updates of the tensors that it owns. The plan is the same, and so must
be every bit: of each message, each loss, each summed gradient, and of the state after the update.
Two workers are enough. The only one of its kind computes its own part again, which shows what comes
by chance, and nothing that its device does each time.

An audited step takes twice the time of one that is not. Beside it a worker needs the memory of
another one's experts and of a second set of gradients; state of others comes a piece at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dougong.models.inventory import inventory_of
from dougong.ops.bit_sum import WRAP, bit_sums
from dougong.ops.finite import num_not_finite
from dougong.parallel.comm.route import Route
from dougong.parallel.comm.tally import MessageTally
from dougong.parallel.comm.transfer import Transfer
from dougong.parallel.exchange.exchange import Exchange
from dougong.parallel.exchange.expected import place_in_words
from dougong.parallel.exchange.recast import RecastWorld, exchanged_parts
from dougong.parallel.execute.executor import Clock, Executor, ExecutorOptions
from dougong.parallel.execute.shard import ExpertShard
from dougong.planner.programs import programs_of
from dougong.training.build import dense_gradients, make_dispatcher
from dougong.training.forwards import Forwards
from dougong.training.hooks import StepHooks
from dougong.training.integrity.cross_check import CrossCheck
from dougong.training.integrity.evidence import WrongNumbers
from dougong.training.integrity.guard import blame
from dougong.training.integrity.spikes import LossWatch
from dougong.training.integrity.verdict import (
    GRADIENTS,
    LOSSES,
    MESSAGES,
    SUMS,
    UPDATE,
    Computed,
    Disagreement,
    Place,
    accused,
)
from dougong.training.memory.source import StateKey
from dougong.training.optimizers.registry import make_optimizer
from dougong.training.results.reports import LossKey, StepResult, clip_scale
from dougong.training.step import StepGradients, StepParts, Stepper

PIECE_BYTES = 64 << 20
"""Of another worker's state, at once."""
Experts = list[dict[int, dict[str, Tensor]]]


class Audit:
    """One worker's hand in it. Collective: all workers call the same methods in the same order.

    not_finite      the step is not finite: is it so by another worker, and with another batch?
    wants           whether this step is computed again
    gradients       nothing has moved yet: is what was computed what another worker computes?
    before_update   take the state of the part that was taken over, and update it
    after_update    is the new state what came of that?
    """

    def __init__(self, stepper: Stepper, forwards: Forwards, every: int) -> None:
        """`every`: a step in so many is looked at, and those with a spike of the loss."""
        parts = stepper.parts
        self._stepper, self._forwards, self._every = stepper, forwards, every
        self._parts, self._world, self._plan = parts, parts.world, parts.share.plan
        kinds = [worker.role_in_step for worker in self._plan.workers]
        self._part_of = exchanged_parts(kinds)
        self._part = self._part_of[self._world.rank]
        self._auditor = self._part_of.index(self._world.rank)
        self._comparison = CrossCheck(parts.world, self._part_of)
        self._again: Stepper | None = None
        self._gradients: Mapping[str, Tensor] = {}
        self._losses_again: Mapping[LossKey, float] = {}
        self._updated: dict[Place, int] = {}
        self._losses = LossWatch()
        self.words = ""

    def wants(self, result: StepResult) -> bool:
        """Whether this step is computed again: it is due, or its loss is far from those before.
        To be asked once of every step that is finite."""
        is_spike = self._losses.is_spike(result.loss)
        return is_spike or result.step % self._every == 0

    def not_finite(self, step: int, computed: StepGradients) -> None:
        """Raises CorruptionError, or PeerError where another worker does, when it is finite by
        other workers. Else `words` says what that means."""
        first = self._computed(self._world.tally, computed)
        second = self._compute_again(step)
        if self._is_finite(self._losses_again, self._gradients):
            found = self._comparison.difference(first, second)
            if found is not None:
                self._judge(step, found, first, second)
        self.words = "; computed again by other workers it is not finite either"
        if step > 1:
            with self._parts.balance.aside():
                before = self._stepper.gradients(step, self._forwards.of_step(step - 1))
            is_data = self._is_finite(before.losses, before.tensors)
            self.words += (
                ", with the batch before it is: look at the data of this step"
                if is_data
                else ", nor with the batch before: the weights, not the data"
            )

    def gradients(self, step: int, computed: StepGradients) -> None:
        """Raises CorruptionError, or PeerError where another worker does, when they are not what
        comes of a second computation. `computed`: by this worker, its own part."""
        first = self._computed(self._world.tally, computed)
        second = self._compute_again(step)
        found = self._comparison.difference(first, second)
        if found is not None:
            self._judge(step, found, first, second)

    def before_update(self, result: StepResult) -> None:
        """The update of the other part, from its state as it is now and the gradients that this
        worker has computed for it."""
        job = self._parts.share.blueprint.job
        gradients = dict(self._gradients)
        scale = clip_scale(result.grad_norm, job.optimizer.clip_norm)
        if scale != 1.0 and gradients:
            torch._foreach_mul_(list(gradients.values()), scale)
        mine, theirs = self._pieces(self._world.rank), self._pieces(self._part)
        self._updated = {}
        for number in range(max(len(mine), len(theirs))):
            leaving = mine[number] if number < len(mine) else ()
            coming = theirs[number] if number < len(theirs) else ()
            masters, moments = self._swap_state(leaving, coming)
            optimizer = make_optimizer(job, masters)
            for (kind, name), value in moments.items():
                optimizer.load(kind, name, value)
            reached = {n: gradients[n] for n in coming if n not in result.unreached}
            optimizer.step(reached, result.rate)
            state = {("weight", name): master for name, master in masters.items()}
            state |= {(kind, name): value for kind, name, value in optimizer.state()}
            self._updated |= _numbers(state)

    def after_update(self, step: int) -> None:
        """Raises CorruptionError, or PeerError where another worker does, when the state is not
        what came of the other update."""
        share = self._parts.share
        state = {("weight", name): share.replica.masters[name] for name in share.optimizer.names}
        state |= {(kind, name): value for kind, name, value in share.optimizer.state()}
        first, second = Computed(_numbers(state)), Computed(self._updated)
        found = self._comparison.difference(first, second)
        if found is None:
            return
        # The state before is overwritten by now: whose update was wrong cannot be tried again.
        owner, other = found.part, self._part_of.index(found.part)
        who = tuple(dict.fromkeys((owner, other)))
        blame(self._world, step, WrongNumbers(f"{found.place[2]}: two updates do not agree", who))

    # The second computation

    def _compute_again(self, step: int) -> Computed:
        if self._again is None:
            self._again = self._build()
        again = self._again
        self._fetch_experts(again.parts.share.replica.experts)
        tally = again.parts.world.tally
        tally.is_on = True
        tally.begin()
        lanes = self._plan.workers[self._part].lanes
        with self._parts.balance.aside():
            found = again.gradients(step, self._forwards.of_step(step, lanes))
        self._gradients, self._losses_again = found.tensors, found.losses
        return self._computed(tally, found)

    def _compute_anew(self, step: int) -> Computed:
        """This worker's own part once more, by itself."""
        self._world.tally.begin()
        with self._parts.balance.aside():
            found = self._stepper.gradients(step, self._forwards.of_step(step))
        return self._computed(self._world.tally, found)

    def _build(self) -> Stepper:
        """A stepper for the part that was taken over. It computes with the same dense weights, and
        with experts of its own."""
        parts, plan, part = self._parts, self._plan, self._part
        share, blueprint = parts.share, parts.share.blueprint
        world = RecastWorld(self._world, self._part_of)
        experts = share.replica.experts if part == self._world.rank else self._room_for_experts()
        replica = dataclasses.replace(share.replica, experts=experts)
        share = dataclasses.replace(
            share,
            rank=part,
            replica=replica,
            shard=ExpertShard(blueprint.op, experts),
            dispatcher=make_dispatcher(blueprint, plan, part, replica),
            program=programs_of(blueprint.job, plan)[part],
        )
        clock, exchange = Clock(note=parts.phases.note), Exchange(world, None, replica.cut.names)
        options = ExecutorOptions(after_forward=parts.balance.after_forward)
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
                    name: torch.empty(shape, dtype=blueprint.dtype, device=blueprint.device)
                    for name, shape in shapes.items()
                }
            room.append(of_site)
        return room

    def _fetch_experts(self, room: Experts) -> None:
        self._swap(_tensors_of(self._parts.share.replica.experts), _tensors_of(room))

    # The state

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
            return self._gradients[name].numel()
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
        masters = {name: self._room(self._gradients[name].shape) for name in coming}
        moments: dict[StateKey, Tensor] = {}
        for key in itertools.compress(keys, are_there.tolist()):
            kind, name = key
            moments[key] = self._room(masters[name].shape if like[kind] else torch.Size())
        sent = [share.replica.masters[name] for name in leaving]
        sent += [known[key] for key in sent_keys if key in known]
        self._swap(sent, [*masters.values(), *moments.values()])
        return masters, moments

    def _room(self, shape: torch.Size) -> Tensor:
        """For a tensor of the state, where masters lie."""
        return torch.empty(shape, device=self._parts.share.blueprint.master_device)

    def _swap(self, leaving: Sequence[Tensor], rooms: Sequence[Tensor]) -> None:
        """Send own tensors to the auditor, and fill the rooms with those of the other part.
        Collective."""
        world = self._world
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

    # The comparison

    def _computed(self, tally: MessageTally, found: StepGradients) -> Computed:
        order = self._order()
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

    def _order(self) -> dict[str, int]:
        """When each message is sent, by what it is called."""
        names, found = self._parts.share.replica.cut.names, {}
        for number, (kind, key) in enumerate(self._parts.share.message_order):
            found[f"{kind.value} of {place_in_words(key, names)}"] = number
        return found

    def _is_finite(self, losses: Mapping[LossKey, float], tensors: Mapping[str, Tensor]) -> bool:
        """Whether all losses and gradients of all workers are. Collective."""
        mine = all(map(math.isfinite, losses.values()))
        mine = mine and not any(num_not_finite(list(tensors.values())))
        said = self._world.gather_bytes(bytes([mine]), [1] * self._world.size, "a second look")
        return all(byte == b"\x01" for byte in said)

    def _judge(self, step: int, found: Disagreement, first: Computed, second: Computed) -> None:
        """Compute the step by everybody once more, in both ways, and name who errs."""
        anew, again = self._compute_anew(step), self._compute_again(step)
        by_owner = [self._comparison.gather(one)[found.part] for one in (first, anew)]
        by_other = [self._comparison.gather_by_part(one)[found.part] for one in (second, again)]
        owner, other = found.part, self._part_of.index(found.part)
        values = [one.numbers.get(found.place) for one in by_owner]
        other_values = [one.numbers.get(found.place) for one in by_other]
        who = accused(owner, other, values, other_values)
        text = f"{found.place[2]}: computed again by another worker it has other bits"
        blame(self._world, step, WrongNumbers(text, who))


def make_audit(stepper: Stepper, forwards: Forwards) -> Audit | None:
    """As the job says; None where it asks for none."""
    every = stepper.parts.share.blueprint.job.fault.audit
    if every is None:
        return None
    return Audit(stepper, forwards, 1 if every == "all" else every)


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
