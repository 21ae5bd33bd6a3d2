"""Hooks: each moment, in the hooks' order, with what the moment promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.errors import ModelError
from dougong.ops.permute import Routing
from dougong.parallel.comm.world import World
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Flight
from dougong.training.build import LedgerStart, StepOptions
from dougong.training.hooks import StepHook, StepHooks
from dougong.training.ledger import LedgerHook
from dougong.training.load_balance import LoadBalance
from dougong.training.results.reports import StepResult
from dougong.training.state import GuardHook
from tests.jobs import Rig, make_job, make_rig, plan_for
from tests.processes import run_workers
from torch import Tensor


class Recording(StepHook):
    """Keeps every moment, and what could be seen in it. `rig` is set when it is there."""

    def __init__(self, name: str = "", moments: list[Any] | None = None) -> None:
        self._name = name
        self.moments: list[Any] = [] if moments is None else moments
        self.gradients: dict[str, Tensor] = {}
        self.weights: list[dict[str, Tensor]] = []
        self.rig: Rig | None = None

    def begin_step(self, step: int) -> None:
        self._keep("begin_step", step)

    def after_forward(
        self, microbatch: int, flights: Mapping[int, Flight], routings: Sequence[Mapping[int, Routing]]
    ) -> None:
        assert all(flight.loss is not None for flight in flights.values())
        self._keep("after_forward", (microbatch, sorted(flights), len(routings)))

    def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
        self.gradients = {name: gradient.clone() for name, gradient in gradients.items()}
        self._keep("gradients_ready", len(gradients))

    def before_update(self, result: StepResult) -> None:
        self._keep("before_update", result)
        self._look()

    def after_update(self, result: StepResult) -> None:
        self._keep("after_update", result)
        self._look()

    def update_skipped(self, result: StepResult) -> None:
        self._keep("update_skipped", result)

    def metrics(self, whole: bool) -> dict[str, Any]:
        return {"last": self._name, self._name: whole}

    def _keep(self, moment: str, seen: Any) -> None:
        self.moments.append((f"{self._name}{moment}", seen))

    def _look(self) -> None:
        if self.rig is not None:
            self.weights.append({name: master.clone() for name, master in self.rig.replica.masters.items()})


def test_the_moments_of_a_step_come_in_their_order() -> None:
    hook = Recording()
    job = make_job(optimizer={"lr": 1e-2, "clip_norm": 0.05})
    rig = hook.rig = make_rig(job, options=StepOptions(hooks=(hook,)))
    result = rig.stepper.run(1, rig.forwards(1))
    assert hook.moments == [
        ("begin_step", 1),
        ("after_forward", (0, [0, 1], 3)),
        ("after_forward", (1, [0, 1], 3)),
        ("gradients_ready", len(rig.stepper.optimizer.names)),
        ("before_update", result),
        ("after_update", result),
    ]
    norm = torch.stack([torch.linalg.vector_norm(g) for g in hook.gradients.values()]).norm()
    assert float(norm) == pytest.approx(result.grad_norm, rel=1e-5), "they are not clipped yet"
    assert result.grad_norm > 0.05
    before, after = hook.weights
    fresh = make_rig(job).replica.masters
    assert all(torch.equal(before[name], fresh[name]) for name in fresh), "no weight has moved"
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_several_hooks_take_turns_at_every_moment() -> None:
    moments: list[Any] = []
    hooks = StepHooks([Recording("first ", moments), Recording("second ", moments)])
    result = StepResult(3, 1.0, 2.0, 0.1, (0.0,), False)
    hooks.begin_step(3)
    hooks.after_forward(0, {}, [])
    hooks.gradients_ready({})
    hooks.before_update(result)
    hooks.after_update(result)
    names = [name for name, _ in moments]
    assert names[::2] == [name.replace("second", "first") for name in names[1::2]] and len(names) == 10
    assert hooks.metrics(True) == {"first ": True, "second ": True, "last": "second "}


def test_balance_is_the_first_and_what_looks_at_the_state_comes_last(tmp_path: Path) -> None:
    hook = Recording()
    rig = make_rig(make_job(), options=StepOptions(hooks=(hook,), ledger=LedgerStart(tmp_path)))
    parts = rig.stepper.parts
    first, middle, ledger, guard = parts.hooks.hooks
    assert isinstance(first, LoadBalance) and middle is hook and isinstance(ledger, LedgerHook)
    assert isinstance(guard, GuardHook), "it holds the state to what the ledger has seen"
    assert (first, ledger) == (parts.balance, parts.ledger)


def test_a_step_that_is_not_finite_has_another_last_moment() -> None:
    class Spoiling(StepHook):
        def gradients_ready(self, gradients: Mapping[str, Tensor]) -> None:
            gradients["model.norm.weight"][0] = float("nan")

    hook = Recording()
    rig = hook.rig = make_rig(make_job(), options=StepOptions(hooks=(Spoiling(), hook)))
    result = rig.stepper.run(1, rig.forwards(1))
    assert result.not_finite is not None and result.not_finite.gradients == ("model.norm.weight",)
    assert [moment for moment, _ in hook.moments][-2:] == ["gradients_ready", "update_skipped"]
    assert hook.moments[-1][1] is result


class Moving(StepHook):
    """Changes one weight after the update, as a balance does."""

    def __init__(self, by: float) -> None:
        self.by = by
        self.rig: Rig | None = None

    def after_update(self, result: StepResult) -> None:
        assert self.rig is not None
        self.rig.replica.masters["model.norm.weight"].add_(self.by)


def test_the_ledger_sees_what_the_hooks_before_it_have_done(tmp_path: Path) -> None:
    digests = []
    for by in (0.0, 1.0):
        hook = Moving(by)
        rig = hook.rig = make_rig(make_job(), options=StepOptions(hooks=(hook,), ledger=LedgerStart(tmp_path)))
        rig.run(1)
        assert rig.stepper.parts.ledger is not None
        digests.append(rig.stepper.parts.ledger.digest)
    assert digests[0] != digests[1]


class Refusing(StepHook):
    """Finds every step's result bad."""

    def before_update(self, result: StepResult) -> None:
        raise ModelError(f"step {result.step}: loss {result.loss}")


def refused(world: World, plan: Plan) -> tuple[str, bool]:
    job = make_job()
    rig = make_rig(job, plan, world, StepOptions(hooks=(Refusing(),)))
    fresh = {name: master.clone() for name, master in rig.replica.masters.items()}
    with pytest.raises(ModelError) as error:
        rig.stepper.run(1, rig.forwards(1))
    return str(error.value), all(torch.equal(fresh[name], t) for name, t in rig.replica.masters.items())


def test_a_check_before_the_update_stops_every_worker_with_the_same_words_and_no_weight_moved() -> None:
    first, second = run_workers(refused, plan_for(make_job(), "BE"))
    assert first == second and first[1] and first[0].startswith("step 1: loss ")
