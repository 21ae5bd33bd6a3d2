"""Made-up values for a part of a model."""

from __future__ import annotations

import torch
from dougong.models.probing import fill, random_matrix, without_memory
from torch import nn


def test_matrices_are_random_trained_vectors_one_and_all_else_zero() -> None:
    module = nn.Linear(6, 4, device="meta")
    module.register_buffer("bias_of_choice", torch.empty(4, device="meta"))
    module.register_buffer("counts", torch.empty(4, dtype=torch.int64, device="meta"))
    fill(module)
    assert torch.equal(module.weight, random_matrix((4, 6))) and module.weight.std() > 0
    assert module.bias.tolist() == [1.0] * 4
    assert module.bias_of_choice.tolist() == [0.0] * 4
    assert module.counts.dtype == torch.int64


def test_a_copy_has_tables_of_its_own_and_runs_its_classes_forward() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.forward = lambda x: x + 1  # type: ignore[assignment]
    copied = without_memory(module)
    copied.add_module("0", nn.Identity())
    assert isinstance(module[0], nn.Linear)
    assert copied(torch.ones(1)).tolist() == [1.0]
