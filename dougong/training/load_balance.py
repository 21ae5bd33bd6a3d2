"""Even load of the experts: counts of every step, the bias update, and the balance losses.

Counts are whole numbers over all lanes, so what is made of them depends on no layout. Losses are
formed per lane and micro-batch, from scores of one shape, and summed as the model's own loss is.

Legend: T tokens of a micro-batch, B its sequences, S tokens of a sequence, K choices per token, E
experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dougong.job.schema import Job
from dougong.job.schema import Router as Settings
from dougong.models.routers import find_choosers, watch
from dougong.ops.permute import Routing
from dougong.parallel.comm.world import World
from dougong.parallel.execute.executor import Clock
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Flight
from dougong.parallel.tree import LaneTree
from dougong.training.replica import Replica


def sequence_loss(scores_TE: Tensor, index_TK: Tensor, num_sequences: int) -> Tensor:
    """Mean over sequences of sum_i f_i P_i (DeepSeek-V3, arXiv 2412.19437, equations 17 to 20
    without the weight).

    f_i = E / (K S) times the sequence's slots for expert i (no gradient), P_i the mean of its
    normalised scores.
    """
    num_experts, num_tokens = scores_TE.shape[1], len(index_TK) // num_sequences
    known_TK = (index_TK >= 0) & (
        index_TK < num_experts
    )  # the last bin is for choices of no expert
    bin_BS = torch.where(known_TK, index_TK, num_experts).reshape(num_sequences, -1)
    first_B1 = torch.arange(num_sequences, device=index_TK.device)[:, None] * (num_experts + 1)
    slots = torch.bincount(
        (bin_BS + first_B1).reshape(-1), minlength=num_sequences * (num_experts + 1)
    )
    counts_BE = slots.view(num_sequences, -1)[:, :num_experts].to(scores_TE.dtype)
    means_BE = scores_TE.view(num_sequences, num_tokens, num_experts).mean(1)
    return (counts_BE * (num_experts / (index_TK.shape[1] * num_tokens)) * means_BE).sum(-1).mean()


def global_loss(scores_TE: Tensor, counts_E: Tensor) -> Tensor:
    """E sum_i f_i P_i (Qwen, arXiv 2501.11873, without the weight): f_i is expert i's part of
    `counts_E`, whole numbers of slots on any device (no gradient); P_i the mean of its normalised
    scores here."""
    parts_E = (counts_E.double() / counts_E.sum().clamp(min=1)).to(scores_TE)
    return (parts_E * scores_TE.mean(0)).sum() * len(counts_E)


def bias_steps(counts_S: Tensor, num_experts: int, settings: Settings, num_choices: int) -> Tensor:
    """What a step adds to a router's bias, float32 [E], from whole numbers of slots; the last of
    `counts_S` [E + 1] are those for experts that compute nothing.

    DeepSeek-V3 (2.1.2): rate * sign(mean_j c_j - c_i). Where there are experts that compute
    nothing, LongCat-Flash (arXiv 2509.01322): rate * (K_e / (K E) - c_i / all slots), which steers
    their part too; they keep their own bias.
    """
    rate, target = settings.bias_rate, settings.computing_choices
    assert rate is not None
    own_E = counts_S[:num_experts]
    if target is None:
        return (own_E.sum() - num_experts * own_E).sign().to(torch.float32) * rate
    wanted = target / (num_choices * num_experts)
    return (rate * (wanted - own_E.double() / counts_S.sum().clamp(min=1))).to(torch.float32)


@dataclass(frozen=True)
class Load:
    """How a step's slots were spread, the same on every worker. `counts` int64 [sites, E + 1]:
    slots for each expert of each site, and in the last column those for experts that compute
    nothing. `loss`: the mean weighted balance loss (None: the job has none)."""

    counts: Tensor
    loss: float | None = None

    def row(self, whole: bool) -> dict[str, Any]:
        """For metrics.jsonl: the busiest expert's load over the mean, of each site and the worst;
        `whole`: all counts too."""
        own = self.counts[:, :-1].double()
        ratios = own.max(1).values / own.mean(1).clamp(min=1e-9)
        sites = [round(ratio, 4) for ratio in ratios.tolist()]
        load = {
            "max_over_mean": sites,
            "worst": max(sites),
            **({"counts": self.counts.tolist()} if whole else {}),
        }
        return {"load": load} if self.loss is None else {"load": load, "balance_loss": self.loss}


class Balance:
    """One worker's part in balancing. Collective: all workers of the plan call the same methods in
    the same order."""

    def __init__(self, job: Job, plan: Plan, world: World, replica: Replica, clock: Clock) -> None:
        """Raises `ModelError` when the model cannot be balanced as the job asks."""
        self._job, self._plan, self._world, self._replica, self._clock = (
            job,
            plan,
            world,
            replica,
            clock,
        )
        self._choosers = find_choosers(replica.model, replica.sites, job.router)
        self._has_loss = job.router.sequence_loss is not None or job.router.global_loss is not None
        if self._has_loss and plan.workers[world.rank].lanes:
            watch(replica.model, self._choosers)
        self._biases = self._gather_biases() if job.router.bias_rate is not None else {}
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._counts = torch.zeros(
            len(self._replica.sites), self._replica.cut.num_experts + 1, dtype=torch.int64
        )
        self._seen = torch.zeros_like(self._counts)
        self._losses: dict[tuple[int, int], Tensor] = {}

    def after_forward(
        self,
        microbatch: int,
        flights: Mapping[int, Flight],
        routings: Sequence[Mapping[int, Routing]],
    ) -> None:
        """Count a micro-batch's slots and add the balance loss to its flights. The global loss's
        counts are those of all lanes, of this micro-batch and of the step's earlier ones."""
        counts = torch.stack([_count(of, self._counts.shape[1]) for of in routings])
        self._counts += counts
        if self._job.router.global_loss is not None:
            with self._clock.exchanging():
                self._seen += self._world.add_counts(counts, attention_only=True)
        for lane, flight in flights.items() if self._has_loss else ():
            with torch.enable_grad():
                flight.extra_loss = self._loss(flight)
            self._losses[lane, microbatch] = flight.extra_loss.detach()

    def finish(self) -> Load:
        """End a step, after the weights' update: add up what was counted, and move the biases."""
        with self._clock.exchanging():
            self._counts = self._world.add_counts(self._counts)
            loss = self._mean_loss() if self._has_loss else None
        for name, (site, bias) in self._biases.items():
            num_choices, num_experts = (
                self._choosers[site].num_choices,
                self._replica.cut.num_experts,
            )
            bias[:num_experts] += bias_steps(
                self._counts[site], num_experts, self._job.router, num_choices
            )
            for kept in (self._replica.masters.get(name), self._replica.dense.get(name)):
                if kept is not None:
                    kept.copy_(bias.view(kept.shape))
        return Load(self._counts, loss)

    def _loss(self, flight: Flight) -> Tensor:
        """The weighted balance loss of one lane's micro-batch, summed over sites in their order."""
        router, parts = self._job.router, []
        for site, logits in sorted(dict(flight.notes).items()):
            scores = self._choosers[site].scores(logits)
            if router.sequence_loss is not None:
                index = flight.calls[site].index
                parts.append(
                    router.sequence_loss
                    * sequence_loss(scores, index, self._job.batch.microbatch_size)
                )
            elif router.global_loss is not None:
                parts.append(router.global_loss * global_loss(scores, self._seen[site, :-1]))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _mean_loss(self) -> float:
        """Micro-batches added in order within a lane, lanes by the tree, as the model's own loss
        is."""
        count = self._job.batch.microbatches
        mine = [
            float(self._losses[lane, m])
            for lane in self._plan.workers[self._world.rank].lanes
            for m in range(count)
        ]
        everybody = self._world.gather(mine, [len(w.lanes) * count for w in self._plan.workers])
        lanes: dict[int, float] = {}
        for worker, values in zip(self._plan.workers, everybody, strict=True):
            lanes |= {
                lane: sum(values[i * count : (i + 1) * count])
                for i, lane in enumerate(worker.lanes)
            }
        return LaneTree(self._plan.num_lanes).sum_numbers(lanes) / (self._plan.num_lanes * count)

    def _gather_biases(self) -> dict[str, tuple[int, Tensor]]:
        """Every biased site's number and float32 bias by tensor name, from its owner: other
        workers' copies may be in half precision. Collective."""
        sites = {
            c.bias: (site, c.num_experts)
            for site, c in enumerate(self._choosers)
            if c.bias is not None
        }
        owned = [[n for n in sites if self._plan.owners[n] == w.rank] for w in self._plan.workers]
        mine = [
            value
            for n in owned[self._world.rank]
            for value in self._replica.masters[n].view(-1).tolist()
        ]
        told = self._world.gather(mine, [sum(sites[n][1] for n in names) for names in owned])
        biases: dict[str, tuple[int, Tensor]] = {}
        for names, values in zip(owned, told, strict=True):
            pieces = torch.tensor(values, dtype=torch.float32).split([sites[n][1] for n in names])
            biases |= {
                n: (sites[n][0], piece.clone()) for n, piece in zip(names, pieces, strict=True)
            }
        return biases


def _count(routings: Mapping[int, Routing], size: int) -> Tensor:
    """Slots of all local lanes, int64 [size]: for each expert, and at the end for those that
    compute nothing."""
    counts = torch.zeros(size, dtype=torch.int64)
    for routing in routings.values():
        counts[:-1] += routing.counts_E
        if routing.identity_TK is not None:
            counts[-1] += int(routing.identity_TK.sum())
    return counts
