"""Every optimizer that a job file may name has a rule, and each rule keeps to the interface."""

from __future__ import annotations

import pytest
import torch
from dougong.job.optimizers.declaration import OptimizerDeclaration
from dougong.job.optimizers.registry import DECLARATIONS
from dougong.job.schema import Job
from dougong.training.optimizers.base import Optimizer
from dougong.training.optimizers.registry import HOST_RULES, RULES, make_optimizer
from tests.jobs import make_job
from torch import Tensor


def test_declarations_and_rules_are_of_the_same_optimizers() -> None:
    assert {declaration.name for declaration in DECLARATIONS} == set(RULES)
    on_host = {declaration.name for declaration in DECLARATIONS if declaration.arithmetic_on_host}
    assert on_host == set(HOST_RULES)


def job_with(declaration: OptimizerDeclaration) -> Job:
    return make_job(optimizer={"name": declaration.name})


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (("b", (3, 4)), ("a", (5,)))}


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda declaration: declaration.name)
def test_a_rule_keeps_what_its_declaration_says(declaration: OptimizerDeclaration) -> None:
    masters = tensors(0)
    rule: Optimizer = make_optimizer(job_with(declaration), masters)
    assert rule.declaration is declaration and rule.names == ("a", "b")
    assert not list(rule.state())
    rule.step({"a": tensors(1)["a"]}, 1e-2)
    assert {name for _, name, _ in rule.state()} == {"a"}, "no gradient, no state"
    state = {kind: value for kind, name, value in rule.state() if name == "a"}
    assert list(state) == [kind.name for kind in declaration.state_kinds]
    for kind in declaration.state_kinds:
        assert state[kind.name].shape == (masters["a"].shape if kind.like_parameter else ())
        assert state[kind.name].dtype == torch.float32


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda declaration: declaration.name)
def test_a_rule_goes_on_from_its_state_with_the_same_bits(declaration: OptimizerDeclaration) -> None:
    masters = tensors(0)
    rule = make_optimizer(job_with(declaration), masters)
    rule.step(tensors(1), 1e-2)
    copies = {name: master.clone() for name, master in masters.items()}
    other = make_optimizer(job_with(declaration), copies)
    for kind, name, value in list(rule.state()):
        other.load(kind, name, value)
    for one in (rule, other):
        one.step(tensors(2), 1e-3)
    assert all(torch.equal(masters[name], copies[name]) for name in masters)
    assert not any(torch.equal(masters[name], value) for name, value in tensors(0).items())
