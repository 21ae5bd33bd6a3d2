"""Every optimizer that a job file may name has a rule, and each rule keeps to the interface."""

from __future__ import annotations

import pytest
import torch
from dougong.job.optimizers.declaration import OptimizerDeclaration
from dougong.job.optimizers.registry import DECLARATIONS, declaration_of
from dougong.job.schema import Job
from dougong.parallel import pieces
from dougong.parallel.dense.buckets import ALIGNMENT
from dougong.parallel.plan import TensorSpec
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


def trained_in_pieces(job: Job, length: int) -> tuple[int, dict[str, Tensor]]:
    """How many pieces of so many numbers the job's optimizer takes a matrix in, and what four updates make of it and of
    its state, put together again."""
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(5, 83 * 29, generator=generator)
    matrix = TensorSpec("matrix", (83, 29), trainable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_NUMEL", length)
        cut = pieces.pieces_of(matrix, declaration_of(job.optimizer).is_elementwise)
    # Rows, which decay as the matrix does.
    parts = [{f"{piece.begin:04}": n[None, piece.begin : piece.end].clone() for piece in cut} for n in numbers]
    rule = make_optimizer(job, parts[0])
    for step, gradients in enumerate(parts[1:], start=1):
        rule.step(gradients, 1e-2 / step)
    found: dict[str, list[Tensor]] = {"master": list(parts[0].values())}
    for kind, _, value in rule.state():
        found.setdefault(kind, []).append(value if value.dim() else value.expand(1, 1))
    return len(cut), {kind: torch.cat(values, dim=1) for kind, values in found.items() if kind != "step"}


def check_pieces(job: Job) -> None:
    """A matrix is updated piece by piece as in one, if its optimizer says so of itself."""
    num_pieces, in_pieces = trained_in_pieces(job, 2 * ALIGNMENT)
    alone, whole = trained_in_pieces(job, 1 << 24)
    declaration = declaration_of(job.optimizer)
    assert in_pieces.keys() == whole.keys() == {"master", *declaration.kinds_like_parameters}
    is_cut = declaration.is_elementwise("matrix", (83, 29))
    assert alone == 1 and num_pieces == (5 if is_cut else 1)
    assert all(torch.equal(in_pieces[kind], value) for kind, value in whole.items())


@pytest.mark.parametrize("state", ["float32", "bfloat16"])
@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda declaration: declaration.name)
def test_what_is_declared_elementwise_has_the_same_bits_in_pieces(
    declaration: OptimizerDeclaration, state: str
) -> None:
    check_pieces(make_job(optimizer={"name": declaration.name, "lr": 1e-2, "weight_decay": 0.3, "state": state}))
