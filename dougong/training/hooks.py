"""What is done at named moments of a step beside the step itself: load balance, the ledger, checks.

The moments of one step, in their order:

    begin_step        before anything of the step
    after_forward     a micro-batch's forwards have ended, its backwards have not begun
    gradients_ready   gradients are summed over micro-batches and lanes; nothing is clipped yet
    before_update     loss and gradient norm are known, the same everywhere; no weight has moved
    after_update      the new weights are everywhere

A step whose loss or gradient norm is not finite has `update_skipped` in place of the last two.

A check that must keep another bad step out of the weights raises in `before_update`: it sees the
same numbers on every worker, so all of them raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dougong.ops.permute import Routing
from dougong.parallel.segments.flight import Flight
from dougong.training.results.reports import StepResult


class StepHook:
    """Does nothing at every moment; a hook overrides those that it needs.

    All workers of a plan have the same hooks in the same order. So a hook may exchange messages
    with all workers at any moment, but for `after_forward`, which attention workers alone reach.
    """

    def begin_step(self, step: int) -> None:
        """`step` begins: forget what the one before has left."""

    def after_forward(
        self,
        microbatch: int,
        flights: Mapping[int, Flight],
        routings: Sequence[Mapping[int, Routing]],
    ) -> None:
        """`flights` by local lane, `routings` by site and local lane. A hook may give a
        flight another loss by `add_loss`, beside those of other hooks."""

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        """`gradients`: float32, of all that this worker owns, by tensor name. One may be changed in
        place."""

    def before_update(self, result: StepResult) -> None:
        """`result` is the same on every worker."""

    def after_update(self, result: StepResult) -> None:
        """The weights of this worker and the compute copies of all are the new ones."""

    def update_skipped(self, result: StepResult) -> None:
        """The step's numbers are not finite, on every worker alike: no weight has moved, and none
        may be moved here."""

    def metrics(self, whole: bool) -> dict[str, Any]:
        """What a line of metrics says of the step that has ended. `whole`: also what is large, kept
        for steps with a checkpoint."""
        return {}


class StepHooks(StepHook):
    """Several hooks, each moment in their order."""

    def __init__(self, hooks: Sequence[StepHook] = ()) -> None:
        self.hooks = tuple(hooks)

    def begin_step(self, step: int) -> None:
        for hook in self.hooks:
            hook.begin_step(step)

    def after_forward(
        self,
        microbatch: int,
        flights: Mapping[int, Flight],
        routings: Sequence[Mapping[int, Routing]],
    ) -> None:
        for hook in self.hooks:
            hook.after_forward(microbatch, flights, routings)

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        for hook in self.hooks:
            hook.gradients_ready(gradients)

    def before_update(self, result: StepResult) -> None:
        for hook in self.hooks:
            hook.before_update(result)

    def after_update(self, result: StepResult) -> None:
        for hook in self.hooks:
            hook.after_update(result)

    def update_skipped(self, result: StepResult) -> None:
        for hook in self.hooks:
            hook.update_skipped(result)

    def metrics(self, whole: bool) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for hook in self.hooks:
            row |= hook.metrics(whole)
        return row
