"""Blocks that call their experts on every token: called on the chosen ones instead.

Llama-4's block scales each token by its score for each of N experts, lays the N copies one after
another, and has `experts(rows)` compute all of them; a score is zero where an expert was not
chosen. What an expert makes of zeros is zero, so the chosen rows alone give the same sum. Such a
block is found by that behaviour, not by its name: it is called on made-up tokens beside the one
that takes its place, and must give the same bits.

Legend: T tokens, K choices per token, N experts, H hidden size.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dougong.models.probing import fill, random_matrix, without_memory

EXPERTS = "experts"
_NUM_TOKENS = 16


def call_by_choice(model: nn.Module) -> None:
    """Give every such block of a model, and its experts, a forward that calls
    `experts(rows, top_k_index, top_k_weights)`. The model may be on meta; its tensors stay as they
    are."""
    for block in list(model.modules()):
        experts = block._modules.get(EXPERTS)
        if experts is None or not _takes_rows_alone(experts):
            continue
        found = next((f for f in _possible(block) if _is_the_same(_Candidate.of(block, *f))), None)
        if found is not None:
            block.__class__ = _chosen_block(_kind_of(block), *found)
            experts.__class__ = _chosen_experts(_kind_of(experts))


def _kind_of(module: nn.Module) -> Any:
    return type(module)


def _takes_rows_alone(experts: nn.Module) -> bool:
    arguments = inspect.signature(type(experts).forward).parameters
    parameters = list(experts.parameters(recurse=False))
    is_by_expert = bool(parameters) and all(parameter.dim() == 3 for parameter in parameters)
    return len(arguments) == 2 and is_by_expert


def _possible(block: nn.Module) -> Iterator[tuple[str, int]]:
    """(name of the router, K) of each child that may be one."""
    for name, child in block.named_children():
        num_choices = getattr(child, "top_k", None)
        if name != EXPERTS and isinstance(num_choices, int) and num_choices > 0:
            yield name, num_choices


@dataclass(frozen=True)
class _Candidate:
    """A block, and what may be its router and K. Blocks of one kind and size have one answer."""

    kinds: tuple[type, ...]
    shape: tuple[int, ...]
    router: str
    num_choices: int
    block: nn.Module = field(compare=False, repr=False)

    @staticmethod
    def of(block: nn.Module, router: str, num_choices: int) -> _Candidate:
        modules = [block, *block.children(), *block.get_submodule(router).modules()]
        first = next(iter(block.get_submodule(EXPERTS).parameters(recurse=False)))
        kinds = tuple(type(module) for module in modules)
        return _Candidate(kinds, tuple(first.shape), router, num_choices, block)


@cache
def _is_the_same(candidate: _Candidate) -> bool:
    """Whether the block gives made-up tokens the same bits when the chosen experts alone are
    called. Experts and all that is neither these nor the router have stand-ins."""
    block, router, shape = candidate.block, candidate.router, candidate.shape
    probe = without_memory(block)
    for name in probe._modules:
        probe._modules[name] = _Halves()
    probe._modules[router] = made = copy.deepcopy(block.get_submodule(router))
    fill(made)
    hidden = random_matrix((_NUM_TOKENS, shape[1])) * shape[1] ** 0.5
    try:
        probe._modules[EXPERTS] = _OnAllRows(shape[0])
        expected, logits = probe(hidden)
        probe._modules[EXPERTS] = _OnChosenRows()
        probe.__class__ = _chosen_block(_kind_of(block), router, candidate.num_choices)
        actual, same_logits = probe(hidden)
    except Exception:  # it is called in another way, or gives something else
        return False
    return torch.equal(expected, actual) and torch.equal(logits, same_logits)


class _Halves(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden / 2


class _OnAllRows(nn.Module):
    """Stands for N experts, which are given T rows each, one expert's after the other's."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self._num_experts = num_experts

    def forward(self, rows: Tensor) -> Tensor:
        index = torch.arange(self._num_experts, device=rows.device).repeat_interleave(
            len(rows) // self._num_experts
        )
        return _answers(rows, index)


class _OnChosenRows(nn.Module):
    """The same experts, called by index."""

    def forward(self, rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        return _answers(rows, index[:, 0])


def _answers(rows: Tensor, index: Tensor) -> Tensor:
    """Each expert's own, and zeros of zeros."""
    return rows * rows * (index + 1)[:, None]


@cache
def _chosen_block(kind: Any, router: str, num_choices: int) -> type:
    def forward(self: Any, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        hidden_TH = hidden_states.reshape(-1, hidden_states.shape[-1])
        scores_TN, logits_TN = self._modules[router](hidden_TH)
        chosen = torch.topk(scores_TN, num_choices, dim=-1).indices
        index_TK = chosen.sort(-1).values  # as the sum over all experts has them
        scaled = hidden_TH[:, None] * scores_TN.gather(1, index_TK)[..., None]
        rows = scaled.reshape(-1, hidden_TH.shape[-1])
        ones = torch.ones_like(rows[:, :1])
        answers = self.experts(rows, index_TK.reshape(-1, 1), ones)
        summed = answers.view(*index_TK.shape, -1).sum(1)
        for name, child in self.named_children():
            if name not in (router, EXPERTS):
                summed = child(hidden_TH) + summed
        return summed, logits_TN

    return type(f"{kind.__name__}ByChoice", (kind,), {"forward": forward})


@cache
def _chosen_experts(kind: Any) -> type:
    def forward(self: Any, rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Rows [R, H] of the experts of `index` [R, 1]; `weights` are ones."""
        (num_experts, *_), *_ = (parameter.shape for parameter in self._parameters.values())
        if num_experts == 1:
            one: Tensor = kind.forward(self, rows)
            return one
        places = index[:, 0], torch.arange(len(rows), device=rows.device)
        spread = rows.new_zeros(num_experts, *rows.shape)
        spread[places] = rows
        answers: Tensor = kind.forward(self, spread.reshape(-1, rows.shape[-1]))
        return answers.view(spread.shape)[places]

    return type(f"{kind.__name__}ByChoice", (kind,), {"forward": forward})
