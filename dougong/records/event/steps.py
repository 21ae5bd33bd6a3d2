"""Events of steps: the first of a generation, those that are computed again, those left out."""

from __future__ import annotations

from typing import Literal

from dougong.records.event.base import RunEvent


class FirstStep(RunEvent):
    """The generation's first step is done."""

    kind: Literal["first_step"] = "first_step"
    step: int


class StepsRecomputed(RunEvent):
    """Steps `first` to `last`, which generations `earlier` had recorded, have been computed again,
    with the same ledgers; but for the last where `differs_from` names the generation in which its
    ledger was `then`, not `now`."""

    kind: Literal["steps_recomputed"] = "steps_recomputed"
    first: int
    last: int
    earlier: tuple[int, ...]
    differs_from: int | None = None
    then: str = ""
    now: str = ""


class StepSkipped(RunEvent):
    """A step's loss or gradient norm was not finite, and its update was left out on all workers.

    `where`: what of it was not finite, in words; `in_a_row`: how many steps were skipped up to and
    with this one, without one in between; `first_sample` to `last_sample`: the numbers of its
    samples, `windows`: of the data that its bad micro-batches have read.
    """

    kind: Literal["step_skipped"] = "step_skipped"
    step: int
    loss: float
    grad_norm: float
    where: str
    in_a_row: int = 1
    first_sample: int | None = None
    last_sample: int | None = None
    windows: tuple[int, ...] = ()
