"""AdamW with moments in bfloat16: torch's update of the rounded moments, whole tensors, before and after a resume."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from dougong.errors import JobError
from dougong.job.optimizers.adamw import AdamW
from dougong.job.rules import breaches
from dougong.models.inventory import inspect_model
from dougong.planner.needs.holdings import state_bytes
from dougong.planner.resume import check_resume
from dougong.training.audit import make_audit
from dougong.training.optimizers import half_adamw
from dougong.training.optimizers.half_adamw import HalfAdamW
from tests.jobs import RigForwards, make_job, make_rig, plan_for
from tests.parallel.test_layouts import run_layout
from tests.training.running import Order, digests, run, token_file
from torch import Tensor

SETTINGS = AdamW(lr=1e-2, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-6, state="bfloat16")
SHAPES = {"head": (9, 7), "experts[0]": (5, 3, 2), "norm": (7,), "bias": (11,), "scalar": ()}
HALF = {"name": "adamw", "lr": 1e-2, "state": "bfloat16"}


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}


def trained(steps: int) -> tuple[dict[str, Tensor], HalfAdamW]:
    values = drawn(1)
    optimizer = HalfAdamW(SETTINGS, values)
    for step in range(1, steps + 1):
        optimizer.step(drawn(100 + step), 1e-2 / step)
    return values, optimizer


@pytest.mark.parametrize("name", SHAPES)
def test_each_step_is_torchs_adamw_of_the_rounded_moments(name: str) -> None:
    """Bit by bit, one tensor alone; so no tensor's update depends on who is updated beside it."""
    values, optimizer = trained(4)
    parameter = torch.nn.Parameter(drawn(1)[name])
    decay = SETTINGS.weight_decay if parameter.dim() >= 2 else 0.0
    torchs = torch.optim.AdamW(
        [parameter], lr=1.0, betas=SETTINGS.betas, eps=SETTINGS.eps, weight_decay=decay, fused=True
    )
    for step in range(1, 5):
        torchs.param_groups[0]["lr"] = 1e-2 / step
        parameter.grad = drawn(100 + step)[name]
        torchs.step()
        for moment in ("exp_avg", "exp_avg_sq"):
            torchs.state[parameter][moment].copy_(torchs.state[parameter][moment].bfloat16())
    assert torch.equal(values[name], parameter)
    state = {kind: value for kind, n, value in optimizer.state() if n == name}
    assert list(state) == [kind.name for kind in HalfAdamW.declaration.state_kinds]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == optimizer.state_dtype == torch.bfloat16
    assert all(torch.equal(value.float(), torchs.state[parameter][kind]) for kind, value in state.items())


def test_no_bit_depends_on_how_many_are_made_wide_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = trained(3)
    monkeypatch.setattr(half_adamw, "WIDE_AT_ONCE", 8)
    pieces, _ = trained(3)
    assert all(torch.equal(whole[name], pieces[name]) for name in SHAPES)


def test_what_was_saved_goes_on_and_a_tensor_without_a_gradient_stays() -> None:
    expected, _ = trained(4)
    values, before = trained(2)
    after = HalfAdamW(SETTINGS, values)
    for kind, name, value in before.state():
        after.load(kind, name, value.float() if kind == "exp_avg" else value)
    for step in (3, 4):
        after.step(drawn(100 + step), 1e-2 / step)
    assert all(torch.equal(expected[name], values[name]) for name in SHAPES)
    kept = values["norm"].clone()
    after.step({"bias": drawn(9)["bias"]}, 1e-2)
    assert torch.equal(kept, values["norm"]) and after.names == tuple(sorted(SHAPES))


def test_the_layout_changes_no_bit_and_the_key_does() -> None:
    job = make_job(optimizer=HALF, precision="bfloat16")
    half = run_layout(job, "B")
    assert run_layout(job, "AE") == half
    assert run_layout(make_job(precision="bfloat16"), "B") != half


def test_a_run_that_goes_on_from_its_checkpoint_has_the_undisturbed_runs_bits(tmp_path: Path) -> None:
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    job = make_job(data=data, optimizer=HALF, steps=4, checkpoint={"every": 2})
    whole = run(Order(job, "BB", tmp_path / "whole"))
    again = run(Order(job, "AE", tmp_path / "again", resume=whole.committed[2], generation=2))
    assert not whole.errors and not again.errors
    assert digests(again.committed[4]) == digests(whole.committed[4])


def test_an_audit_and_the_guard_know_moments_of_two_bytes() -> None:
    rig = make_rig(make_job(optimizer=HALF, fault={"audit": "all"}))
    audit = make_audit(rig.stepper, RigForwards(rig))  # type: ignore[arg-type]
    for step in (1, 2):
        rig.stepper.run(step, rig.forwards(step), audit=audit)


def test_the_planner_counts_half_of_the_moments() -> None:
    jobs = [make_job(), make_job(optimizer=HALF)]
    inventory = inspect_model(jobs[0].model, 256)
    (whole,), (half,) = (state_bytes(job, inventory, plan_for(job)) for job in jobs)
    assert whole - half == 4 * inventory.num_parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"betas": (0.9, 0.999)}, "0.999: a moment in bfloat16 .*at most 0.9961, or set optimizer.state: float32"),
        ({"device": "host"}, "CPU Adam.*keeps float32 alone; remove it, or set optimizer.device: worker"),
    ],
)
def test_what_cannot_be_kept_so_is_refused(changes: dict[str, object], words: str) -> None:
    job = make_job(optimizer={**HALF, **changes})
    (breach,) = breaches(dict(job))
    assert breach.path[0] == "optimizer"
    assert re.search(words, breach.text)
    assert not list(breaches(dict(make_job(optimizer=HALF))))


def test_a_resume_with_another_value_is_refused() -> None:
    for before, after in ((make_job(), make_job(optimizer=HALF)), (make_job(optimizer=HALF), make_job())):
        with pytest.raises(JobError, match="optimizer.state.*bfloat16"):
            check_resume(before, after)
