"""One site between attention and experts, in one process: both sides, and the messages between them.

`Site` plays both with the functions of `parallel/dispatch/crossing.py` alone; every tensor that passes from one to the
other goes over a `Wire`, which copies it and counts its bytes. `on_one_worker` is what all must come to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from dougong.ops.experts.base import Block
from dougong.ops.permute import (
    make_routing,
    permute,
    permute_backward,
    products_of_rows,
    unpermute,
    weigh_rows,
    weights_backward,
)
from dougong.parallel.dispatch import crossing as ops
from dougong.parallel.dispatch.crossing import Combine, CrossingPlan, ExpertHolders, LaneCounts, plan_crossings
from tests.parallel.dispatch.traffic import Traffic
from tests.reference import combine_backward
from torch import Tensor

H = 5


@dataclass(frozen=True)
class Problem:
    """Lanes' routings to experts that workers hold `num_experts[d]` each, and what is computed with.

    Expert e multiplies by `matrices[e]`. `lanes`: (index, hidden, weights, dout).
    """

    num_experts: tuple[int, ...]
    identity: bool
    matrices: Tensor
    lanes: tuple[tuple[Tensor, Tensor, Tensor, Tensor], ...]

    def to(self, dtype: torch.dtype, weight_dtype: torch.dtype | None = None) -> Problem:
        lanes = tuple((i, h.to(dtype), w.to(weight_dtype or dtype), d.to(dtype)) for i, h, w, d in self.lanes)
        return replace(self, matrices=self.matrices.to(dtype), lanes=lanes)


Result = tuple[Tensor, Tensor, Tensor]
"""A lane's output, and the gradients of its tokens and of its weights."""


def make_problem(num_experts: tuple[int, ...], indices: list[Tensor], identity: bool = False) -> Problem:
    """Values of many magnitudes, so that the order of a sum shows in its bits."""
    generator = torch.Generator().manual_seed(sum(num_experts) + len(indices))

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 4 ** torch.randn(shape, generator=generator)

    lanes = tuple((i, values(len(i), H), values(*i.shape), values(len(i), H)) for i in indices)
    return Problem(num_experts, identity, values(sum(num_experts), H, H), lanes)


def serve(rows_RH: Tensor, blocks: tuple[Block, ...], matrices: Tensor) -> Tensor:
    """A product for each block; the outputs of its rows."""
    assert sum(block.count for block in blocks) == len(rows_RH)
    return torch.cat([rows_RH[b.span] @ matrices[b.expert] for b in blocks] or [rows_RH])


def on_one_worker(problem: Problem) -> list[Result]:
    """What `ops.permute` alone computes, a lane at a time."""
    results = []
    for lane, (index_TK, hidden_TH, weights_TK, dout_TH) in enumerate(problem.lanes):
        routing = make_routing(index_TK, sum(problem.num_experts), problem.identity)
        counts = routing.counts_E.tolist()
        starts = accumulate(counts, initial=0)
        blocks = tuple(Block(e, lane, s, n) for (e, n), s in zip(enumerate(counts), starts, strict=False) if n)
        outputs_RH = serve(permute(hidden_TH, routing), blocks, problem.matrices)
        out_TH = unpermute(outputs_RH, hidden_TH, weights_TK, routing)
        doutputs_RH, dweights_TK = combine_backward(dout_TH, outputs_RH, hidden_TH, weights_TK, routing)
        drows_RH = serve(doutputs_RH, blocks, problem.matrices.mT)
        results.append((out_TH, permute_backward(drows_RH, dout_TH, weights_TK, routing), dweights_TK))
    return results


@dataclass
class Wire:
    """The tensors that crossed, counted by message: headers, forward, outputs, backward, gradients."""

    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Traffic.__dataclass_fields__, 0))

    def cross(self, message: str, tensor: Tensor) -> Tensor:
        self.sent[message] += tensor.nbytes
        return tensor.clone(memory_format=torch.contiguous_format)

    def counts(self, plans: list[CrossingPlan], worker: int, num_experts: tuple[int, ...]) -> LaneCounts:
        """What all lanes send a worker, as its count table tells it."""
        tokens, rows = [], []
        for plan in plans:
            of_lane = plan.routing.counts_E.split(list(num_experts))[worker]
            tokens.append(int(self.cross("header", torch.tensor(plan.tokens_D[worker]))))
            rows.append(self.cross("header", of_lane).numpy())
        return LaneCounts(np.array(tokens), np.stack(rows), plans[0].routing.num_choices)

    def to_worker(self, message: str, pieces: list[tuple[Tensor, ...]], worker: int) -> Tensor:
        """Every lane's piece for a worker, joined there. `pieces`: by lane, then worker."""
        return torch.cat([self.cross(message, of[worker]) for of in pieces])

    def to_lanes(self, message: str, joined: list[Tensor], sizes: list[list[int]]) -> list[Tensor]:
        """Each lane's pieces of all workers, joined. `joined`: by worker; `sizes`: by worker, then lane."""
        pieces = [whole.split(of) for whole, of in zip(joined, sizes, strict=True)]
        return [torch.cat([self.cross(message, piece) for piece in of]) for of in zip(*pieces, strict=True)]


class Site:
    """Both sides of one site, for the lanes and workers of a problem."""

    def __init__(self, problem: Problem, combine: Combine) -> None:
        self.problem, self.combine, self.wire = problem, combine, Wire()
        holders = ExpertHolders.of(problem.num_experts, torch.device("cpu"))
        self.plans = plan_crossings([index_TK for index_TK, *_ in problem.lanes], holders, problem.identity)
        workers = range(len(problem.num_experts))
        self.counts = [self.wire.counts(self.plans, worker, problem.num_experts) for worker in workers]
        firsts = [0, *accumulate(problem.num_experts)]
        self.experts = [range(first, end) for first, end in pairwise(firsts)]
        self.sizes_U = [of.tokens_L.tolist() for of in self.counts]
        self.sizes_R = [of.rows_by_lane.tolist() for of in self.counts]

    def run(self) -> list[Result]:
        outs = self.forward()
        gradients = self.backward()
        return [(out, *of) for out, of in zip(outs, gradients, strict=True)]

    def forward(self) -> list[Tensor]:
        tokens = [ops.pack_tokens(h, p) for p, (_, h, _, _) in zip(self.plans, self.problem.lanes, strict=True)]
        slots = [p.split_rows(p.slots_R) for p in self.plans]
        weigh = self.combine == "at_experts"
        self.pack_weights("forward", weigh)
        self.arrived, self.outputs, back = [], [], []
        for worker, counts in enumerate(self.counts):
            arrived = ops.routing_of_arrivals(counts, self.wire.to_worker("forward", slots, worker))
            rows_RH = permute(self.wire.to_worker("forward", tokens, worker), arrived)
            outputs_RH = serve(rows_RH, self.blocks(worker), self.problem.matrices)
            self.arrived.append(arrived)
            self.outputs.append(outputs_RH)
            back.append(ops.add_outputs(outputs_RH, self.weights[worker], arrived) if weigh else outputs_RH)
        self.came = self.wire.to_lanes("outputs", back, self.sizes_U if weigh else self.sizes_R)
        add = ops.add_partial_sums if weigh else lambda rows, h, w, p: unpermute(rows, h, w, p.routing)
        lanes = zip(self.came, self.plans, self.problem.lanes, strict=True)
        return [add(came, h, w, p) for came, p, (_, h, w, _) in lanes]

    def backward(self) -> list[tuple[Tensor, Tensor]]:
        douts = [ops.pack_tokens(d, p) for p, (_, _, _, d) in zip(self.plans, self.problem.lanes, strict=True)]
        self.pack_weights("backward", self.combine == "at_attention")
        gradients, dweights = [], []
        for worker, arrived in enumerate(self.arrived):
            dout_RH = permute(self.wire.to_worker("backward", douts, worker), arrived)
            doutputs_RH = weigh_rows(dout_RH, self.weights[worker])
            drows_RH = serve(doutputs_RH, self.blocks(worker), self.problem.matrices.mT)
            dweights.append(products_of_rows(dout_RH, self.outputs[worker]))
            gradients.append(drows_RH if self.combine == "at_attention" else ops.add_gradients(drows_RH, arrived))
        at_attention = self.combine == "at_attention"
        came = self.wire.to_lanes("gradients", gradients, self.sizes_R if at_attention else self.sizes_U)
        weights = self.wire.to_lanes("gradients", dweights, self.sizes_R)
        end = self.end_at_attention if at_attention else self.end_at_experts
        return [end(lane, *of) for lane, of in enumerate(zip(came, weights, strict=True))]

    def end_at_attention(self, lane: int, drows_RH: Tensor, dweights_R: Tensor) -> tuple[Tensor, Tensor]:
        _, hidden_TH, weights_TK, dout_TH = self.problem.lanes[lane]
        routing = self.plans[lane].routing
        dweights_TK = weights_backward(dweights_R, dout_TH, hidden_TH, weights_TK, routing)
        return permute_backward(drows_RH, dout_TH, weights_TK, routing), dweights_TK

    def end_at_experts(self, lane: int, sums_VH: Tensor, dweights_R: Tensor) -> tuple[Tensor, Tensor]:
        _, hidden_TH, weights_TK, dout_TH = self.problem.lanes[lane]
        plan = self.plans[lane]
        dweights_TK = weights_backward(dweights_R, dout_TH, hidden_TH, weights_TK, plan.routing)
        return ops.add_partial_sums(sums_VH, dout_TH, weights_TK, plan), dweights_TK

    def pack_weights(self, message: str, now: bool) -> None:
        """The weights travel once: forward or backward, as the combine has it; they are kept from then on."""
        if now:
            pairs = zip(self.plans, self.problem.lanes, strict=True)
            pieces = [ops.pack_weights(w, p) for p, (_, _, w, _) in pairs]
            self.weights = [self.wire.to_worker(message, pieces, d) for d in range(len(self.counts))]

    def blocks(self, worker: int) -> tuple[Block, ...]:
        return ops.blocks_of(self.counts[worker], range(len(self.plans)), self.experts[worker])


def differing(ours: list[Result], theirs: list[Result]) -> list[str]:
    """What differs in a bit, the sign of a zero included."""
    names = ("output", "gradient of tokens", "gradient of weights")
    assert len(ours) == len(theirs)
    return [
        f"lane {lane}: {name}"
        for lane, pair in enumerate(zip(ours, theirs, strict=True))
        for name, a, b in zip(names, *pair, strict=True)
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    ]
