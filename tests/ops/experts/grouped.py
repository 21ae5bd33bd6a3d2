"""Problems for grouped operators: experts' weights, rows of several lanes, and the answer in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from dougong.ops.experts.base import Block
from torch import Tensor

Counts = Sequence[Sequence[int]]
"""Rows of each lane for each expert."""


@dataclass(frozen=True)
class Size:
    """Hidden size, the experts' inner size, and the dtype of rows and weights."""

    hidden: int
    inner: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def draw(self, *key: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        """Values of very different magnitude, so that sums show the order of their terms."""
        generator = torch.Generator().manual_seed(sum(k * 1000**i for i, k in enumerate(key)))
        values = torch.randn(shape, generator=generator) * 4 ** torch.randn(shape, generator=generator)
        return (values * scale).to(self.dtype).to(self.device)

    def weights(self, expert: int) -> dict[str, Tensor]:
        return {
            "gate_up_proj": self.draw(1, expert, shape=(2 * self.inner, self.hidden), scale=self.hidden**-0.5),
            "down_proj": self.draw(2, expert, shape=(self.hidden, self.inner), scale=self.inner**-0.5),
        }

    def rows(self, expert: int, lane: int, count: int) -> tuple[Tensor, Tensor]:
        """Rows of a block and gradients of their answers; the first ones do not depend on `count`."""
        x, dy = (self.draw(kind, expert, lane, shape=(1000, self.hidden)) for kind in (3, 4))
        return x[:count], dy[:count]


@dataclass(frozen=True)
class Problem:
    """A wave: rows x [R, H], gradients dy [R, H] of the answers, its blocks and the experts' weights."""

    x: Tensor
    dy: Tensor
    blocks: tuple[Block, ...]
    tensors: Mapping[int, Mapping[str, Tensor]]


def make_problem(size: Size, counts: Counts) -> Problem:
    """`counts[lane][expert]` rows, lane by lane. A row's values depend on its expert, lane and number only."""
    blocks, rows, start = [], [], 0
    for lane, of_lane in enumerate(counts):
        for expert, count in enumerate(of_lane):
            if count:
                blocks.append(Block(expert, lane, start, count))
                rows.append(size.rows(expert, lane, count))
                start += count
    empty = torch.empty(0, size.hidden, dtype=size.dtype, device=size.device)
    x, dy = (torch.cat(of) for of in zip(*rows)) if rows else (empty, empty)
    return Problem(x, dy, tuple(blocks), {e: size.weights(e) for e in range(len(counts[0]))})


def run(op: Any, problem: Problem, grads: Mapping[int, Mapping[str, Tensor]] | None = None) -> dict[Any, Tensor]:
    """{"y", "dx", (expert, parameter)}; gradients are added to `grads`, else to zeros."""
    y, dx = torch.full_like(problem.x, float("nan")), torch.full_like(problem.x, float("nan"))
    grads = grads or {
        e: {n: torch.zeros_like(t, dtype=torch.float32) for n, t in of.items()} for e, of in problem.tensors.items()
    }
    saved = op.forward(problem.x, problem.blocks, problem.tensors, y)
    op.backward(problem.dy, saved, problem.tensors, grads, dx)()
    return {"y": y, "dx": dx, **{(e, n): g for e, of in grads.items() for n, g in of.items()}}


def exact(problem: Problem) -> dict[Any, Tensor]:
    """The same in float64 by autograd, block by block."""
    leaves = {e: {n: t.double().requires_grad_() for n, t in of.items()} for e, of in problem.tensors.items()}
    x = problem.x.double().requires_grad_()
    answers = [swiglu(x[b.span], leaves[b.expert]) for b in problem.blocks]
    torch.cat(answers).backward(problem.dy.double())
    grads = {
        (e, n): torch.zeros_like(t) if t.grad is None else t.grad for e, of in leaves.items() for n, t in of.items()
    }
    return {"y": torch.cat(answers).detach(), "dx": x.grad, **grads}


def swiglu(x: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    gate, up = (x @ tensors["gate_up_proj"].t()).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ tensors["down_proj"].t()


def largest_error(ours: Mapping[Any, Tensor], theirs: Mapping[Any, Tensor]) -> float:
    """Largest difference over the largest value of a tensor, over all tensors."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[n].double() - t).abs().max() / t.abs().max().clamp_min(1e-30)) for n, t in theirs.items())


def by_block(problem: Problem, result: Mapping[Any, Tensor]) -> dict[tuple[int, int, str], Tensor]:
    """(expert, lane, "y" or "dx") -> the block's rows."""
    return {(b.expert, b.lane, n): result[n][b.span] for b in problem.blocks for n in ("y", "dx")}
