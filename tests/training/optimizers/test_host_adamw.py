"""The update in the machine's memory: torch's AdamW to rounding, the same bits after a resume and on every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dougong.deepspeed.adam_build import load_adam
from dougong.job.optimizers.adamw import AdamW
from dougong.training.optimizers.adamw import OwnedAdamW
from dougong.training.optimizers.host_adamw import HostAdamW
from dougong.training.optimizers.registry import make_optimizer
from tests.jobs import make_job, make_rig, plan_for
from tests.training.optimizers.test_adamw import SETTINGS, SHAPES, gradients, masters
from tests.training.optimizers.test_registry import check_pieces
from tests.training.running import Order, digests, token_file
from tests.training.running import run as start
from torch import Tensor

pytestmark = pytest.mark.simulated  # DeepSpeed's library is compiled

HOST = {"optimizer": {"device": "host", "lr": 1e-2}}


@pytest.fixture(scope="module")
def library() -> Any:
    return load_adam(make_job(**HOST))


def run(optimizer: Any, steps: range, names: tuple[str, ...] = tuple(SHAPES)) -> None:
    for step in steps:
        optimizer.step({n: g for n, g in gradients(step).items() if n in names}, 1e-2 / step)


def test_it_is_the_update_of_a_device_to_rounding(library: Any) -> None:
    """Decay on matrices alone, corrected bias, a rate for every step, a tensor without a gradient left alone."""
    settings = AdamW(**{**SETTINGS.model_dump(), "device": "host"})
    ours, torchs = masters(), masters()
    host, worker = HostAdamW(settings, ours, library), OwnedAdamW(SETTINGS, torchs)
    for optimizer in (host, worker):
        run(optimizer, range(1, 3), ("head", "norm"))
        run(optimizer, range(3, 6))
        optimizer.step({}, 1.0)
    for name in SHAPES:
        torch.testing.assert_close(ours[name], torchs[name], rtol=3e-6, atol=3e-7)
    found, due = ({(kind, name): value for kind, name, value in one.state()} for one in (host, worker))
    assert found.keys() == due.keys()
    for key, value in found.items():
        assert (value.shape, value.dtype) == (due[key].shape, due[key].dtype)
        torch.testing.assert_close(value, due[key], rtol=1e-5, atol=1e-8)
    assert {float(value) for (kind, name), value in found.items() if (kind, name) == ("step", "head")} == {5.0}


def test_a_resume_from_its_state_has_the_bits_of_the_unbroken_run(library: Any) -> None:
    settings = AdamW(**{**SETTINGS.model_dump(), "device": "host"})
    whole, halfway = masters(), masters()
    run(HostAdamW(settings, whole, library), range(1, 7))
    first = HostAdamW(settings, halfway, library)
    run(first, range(1, 4))
    resumed = HostAdamW(settings, halfway, library)
    for kind, name, value in first.state():
        resumed.load(kind, name, value.clone())
    run(resumed, range(4, 7))
    assert all(torch.equal(halfway[name], whole[name]) for name in SHAPES)


def test_neighbours_change_no_bit(library: Any) -> None:
    settings = AdamW(**{**SETTINGS.model_dump(), "device": "host"})
    together, alone = masters(), masters()
    run(HostAdamW(settings, together, library), range(1, 4))
    for name in reversed(list(SHAPES)):
        run(HostAdamW(settings, {name: alone[name]}, library), range(1, 4), (name,))
    assert all(torch.equal(alone[name], together[name]) for name in SHAPES)


def test_pieces_of_a_tensor_have_the_bits_of_the_whole() -> None:
    check_pieces(make_job(**HOST))


def test_a_job_asks_for_it_and_trains_as_on_the_worker() -> None:
    """In float32 the masters are what the model computes with; in bfloat16 they are not."""
    for precision in ("float32", "bfloat16"):
        host, worker = (make_rig(make_job(precision=precision, **changes)) for changes in (HOST, {}))
        assert isinstance(host.stepper.optimizer, HostAdamW)
        assert host.run(3) == pytest.approx(worker.run(3), rel=1e-5 if precision == "float32" else 1e-2)
        for name, copy in host.replica.copies:
            assert torch.equal(copy, host.replica.masters[name].to(copy.dtype))


@pytest.mark.parametrize("name", ["a", "b"])
def test_masters_that_it_is_given_are_updated_in_place(name: str) -> None:
    given: dict[str, Tensor] = {name: torch.ones(3, 100)}
    optimizer = make_optimizer(make_job(**HOST), given)
    kept = given[name]
    optimizer.step({name: torch.ones(3, 100)}, 1e-2)
    assert bool((kept < 1).all()) and optimizer.names == (name,)
    assert plan_for(make_job(**HOST)).workers, "the plan is the same"


@pytest.mark.slow
def test_every_layout_and_a_resume_give_the_same_bits(tmp_path: Path) -> None:
    data = {"tokens": str(token_file(tmp_path)), "sequence_length": 16}
    job = make_job(data=data, steps=4, checkpoint={"every": 2}, **HOST)
    whole = {roles: start(Order(job, roles, tmp_path / roles)) for roles in ("B", "BB", "AE")}
    due = digests(whole["B"].committed[4])
    assert all(digests(outcome.committed[4]) == due for outcome in whole.values())
    later = start(Order(job, "AE", tmp_path / "later", resume=whole["BB"].committed[2]))
    assert digests(later.committed[4]) == due
    on_worker = start(Order(make_job(data=data, steps=4, checkpoint={"every": 2}), "B", tmp_path / "worker"))
    assert digests(on_worker.committed[4]) != due, "another recipe has other bits"
