"""What is computed once is computed a second time, by another worker, before the step is committed.

Each worker takes over the part of another one of its kind (`takeover`), of another one from audit
to audit. The plan is the same, and so must be every bit: of each message, each loss, each summed
gradient, and of the state after the update. Two workers are enough; with three a device that errs
each time alike is told from the one that computes after it. The only one of its kind computes its
own part again, which shows what comes by chance, and nothing that its device does each time.

An audited step takes twice the time of one that is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from dougong.ops.finite import num_not_finite
from dougong.parallel.exchange.recast import exchanged_parts
from dougong.training.forwards import Forwards
from dougong.training.integrity.evidence import WrongNumbers
from dougong.training.integrity.guard import blame
from dougong.training.integrity.spikes import LossWatch
from dougong.training.integrity.verdict import Computed, Disagreement, Opinions, accused
from dougong.training.results.reports import LossKey, StepResult
from dougong.training.step import StepGradients, Stepper
from dougong.training.takeover import Takeover, computed_by, state_numbers


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
        self._stepper, self._forwards, self._every = stepper, forwards, every
        self._parts, self._world = stepper.parts, stepper.parts.world
        self._kinds = [worker.role_in_step for worker in self._parts.share.plan.workers]
        self._num_audits = 0
        self._takeover: Takeover | None = None
        self._updated = Computed({})
        self._losses = LossWatch()
        self.words = ""
        self._world.at_leaving(self._close)

    def wants(self, result: StepResult) -> bool:
        """Whether this step is computed again: it is due, or its loss is far from those before.
        To be asked once of every step that is finite."""
        is_spike = self._losses.is_spike(result.loss)
        return is_spike or result.step % self._every == 0

    def not_finite(self, step: int, computed: StepGradients) -> None:
        """Raises CorruptionError, or PeerError where another worker does, when it is finite by
        other workers. Else `words` says what that means."""
        other = self._next()
        first = computed_by(self._parts, self._world.tally, computed)
        second = other.compute(step)
        if self._is_finite(other.losses, other.gradients):
            self._compare(step, first, second)
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
        first = computed_by(self._parts, self._world.tally, computed)
        self._compare(step, first, self._next().compute(step))

    def before_update(self, result: StepResult) -> None:
        """The update of the other part, from its state as it is now and the gradients that this
        worker has computed for it."""
        self._updated = self._current.update(result)

    def after_update(self, step: int) -> None:
        """Raises CorruptionError, or PeerError where another worker does, when the state is not
        what came of the other update."""
        other = self._current
        found = other.comparison.difference(state_numbers(self._parts), self._updated)
        if found is None:
            return
        # The state before is overwritten by now: whose update was wrong cannot be tried again.
        who = tuple(dict.fromkeys((found.part, other.part_of.index(found.part))))
        blame(self._world, step, WrongNumbers(f"{found.place[2]}: two updates do not agree", who))

    # Who computes it again

    @property
    def _current(self) -> Takeover:
        assert self._takeover is not None, "nothing has been computed again"
        return self._takeover

    def _next(self) -> Takeover:
        """The one whose turn it is."""
        part_of = exchanged_parts(self._kinds, self._num_audits)
        self._num_audits += 1
        if self._takeover is None or self._takeover.part_of != part_of:
            self._close()
            self._takeover = Takeover(self._stepper, self._forwards, part_of)
        return self._takeover

    def _close(self) -> None:
        if self._takeover is not None:
            self._takeover.close()
        self._takeover = None

    # What comes of it

    def _compare(self, step: int, first: Computed, second: Computed) -> None:
        found = self._current.comparison.difference(first, second)
        if found is not None:
            self._judge(step, found, first, second)

    def _judge(self, step: int, found: Disagreement, first: Computed, second: Computed) -> None:
        """Compute the step by everybody once more, in both ways, and where that does not tell who
        errs, by others again."""
        opinions = self._opinions(step, found, first, second)
        who = accused(opinions)
        if len(who) == 2 and self._kinds.count(self._kinds[found.part]) > 2:
            third = self._next()
            value = third.comparison.gather_by_part(third.compute(step))[found.part]
            who = accused(opinions, third=value.numbers.get(found.place))
        text = f"{found.place[2]}: computed again by another worker it has other bits"
        blame(self._world, step, WrongNumbers(text, who))

    def _opinions(
        self, step: int, found: Disagreement, first: Computed, second: Computed
    ) -> Opinions:
        """What the two came to at the place where they differ, two times each."""
        current, part = self._current, found.part
        anew, again = self._compute_anew(step), current.compute(step)
        by_owner = [current.comparison.gather(one)[part] for one in (first, anew)]
        by_other = [current.comparison.gather_by_part(one)[part] for one in (second, again)]
        return Opinions(
            part,
            current.part_of.index(part),
            tuple(one.numbers.get(found.place) for one in by_owner),
            tuple(one.numbers.get(found.place) for one in by_other),
        )

    def _compute_anew(self, step: int) -> Computed:
        """This worker's own part once more, by itself."""
        self._world.tally.begin()
        with self._parts.balance.aside():
            found = self._stepper.gradients(step, self._forwards.of_step(step))
        return computed_by(self._parts, self._world.tally, found)

    def _is_finite(self, losses: Mapping[LossKey, float], tensors: Mapping[str, Tensor]) -> bool:
        """Whether all losses and gradients of all workers are. Collective."""
        mine = all(map(math.isfinite, losses.values()))
        mine = mine and not any(num_not_finite(list(tensors.values())))
        said = self._world.gather_bytes(bytes([mine]), [1] * self._world.size, "a second look")
        return all(byte == b"\x01" for byte in said)


def make_audit(stepper: Stepper, forwards: Forwards) -> Audit | None:
    """As the job says; None where it asks for none."""
    every = stepper.parts.share.blueprint.job.fault.audit
    if every is None:
        return None
    return Audit(stepper, forwards, 1 if every == "all" else every)
