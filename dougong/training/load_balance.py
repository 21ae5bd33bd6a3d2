"""Even load of the experts: counts of every step, the bias update, and the balance losses.

Counts are whole numbers over all lanes, so what is made of them depends on no layout. Losses are
formed per lane and micro-batch, from scores of one shape, and summed as the model's own loss is.
Padding is left out of both: nothing is learnt of it, so it moves no router.

Legend: T tokens of a micro-batch, B its sequences, S tokens of a sequence, K choices per token, E
experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dougong.job.parts.router import Router as Settings
from dougong.models.routers import find_choosers, watch
from dougong.ops.permute import Routing
from dougong.ops.topk import topk_by_index
from dougong.parallel.comm.world import World
from dougong.parallel.execute.clock import Clock
from dougong.parallel.plan import Plan
from dougong.parallel.segments.flight import Flight, RealTokens
from dougong.training.hooks import StepHook
from dougong.training.replica import ModelBlueprint, Replica
from dougong.training.results.reports import (
    LossKey,
    StepResult,
    gather_losses,
    gather_vectors,
    loss_keys,
    mean_loss,
)


def sequence_loss(
    scores_TE: Tensor, num_choices: int, num_sequences: int, real_T: Tensor | None = None
) -> Tensor:
    """Mean over sequences of sum_i f_i P_i (DeepSeek-V3, arXiv 2412.19437, equations 17 to 20
    without the weight).

    f_i = E / (K S) times the sequence's tokens that have expert i among their K highest scores (no
    gradient), P_i the mean of its normalised scores. The K highest of the scores alone: where a
    bias moves the choice, other experts may have got the token. `real_T`: bool, the tokens that
    there are for all of this (None: all).
    """
    num_experts, num_tokens = scores_TE.shape[1], len(scores_TE) // num_sequences
    _, index_TK = topk_by_index(scores_TE.detach(), num_choices)
    if real_T is not None:
        real_BS = real_T.view(num_sequences, num_tokens)
        return _real_sequence_loss(scores_TE, index_TK, real_BS)
    counts_BE = _slots_by_sequence(index_TK, num_sequences, num_experts).to(scores_TE.dtype)
    means_BE = _normalised(scores_TE).view(num_sequences, num_tokens, num_experts).mean(1)
    scale = num_experts / (num_choices * num_tokens)
    return (counts_BE * scale * means_BE).sum(-1).mean()


def _real_sequence_loss(scores_TE: Tensor, index_TK: Tensor, real_BS: Tensor) -> Tensor:
    """`sequence_loss` of sequences of different lengths."""
    num_experts, num_choices = scores_TE.shape[1], index_TK.shape[1]
    num_sequences, num_tokens = real_BS.shape
    # One expert more, which gets what padding chose.
    index_TK = torch.where(real_BS.reshape(-1, 1), index_TK, num_experts)
    counts_BE = _slots_by_sequence(index_TK, num_sequences, num_experts + 1)[:, :-1]
    sizes_B1 = real_BS.sum(1, keepdim=True).clamp(min=1).to(scores_TE.dtype)
    scores_BSE = _normalised(scores_TE).view(num_sequences, num_tokens, num_experts)
    means_BE = torch.where(real_BS[:, :, None], scores_BSE, 0.0).sum(1) / sizes_B1
    parts_BE = counts_BE.to(scores_TE.dtype) * (num_experts / num_choices) / sizes_B1
    return (parts_BE * means_BE).sum(-1).mean()


def _slots_by_sequence(index_TK: Tensor, num_sequences: int, num_experts: int) -> Tensor:
    """Slots of each sequence for each expert, int64 [B, E]."""
    # One count for all sequences: each has bins of its own.
    bin_BS = index_TK.reshape(num_sequences, -1)
    first_B1 = torch.arange(num_sequences, device=index_TK.device)[:, None] * num_experts
    slots = torch.bincount((bin_BS + first_B1).reshape(-1), minlength=num_sequences * num_experts)
    return slots.view(num_sequences, num_experts)


def global_loss(scores_TE: Tensor, counts_E: Tensor, real: RealTokens | None = None) -> Tensor:
    """E sum_i f_i P_i (Qwen, arXiv 2501.11873, without the weight): f_i is expert i's part of
    `counts_E`, whole numbers of slots on any device (no gradient); P_i the mean of its normalised
    scores here, of all tokens or of those that are `real`."""
    parts_E = (counts_E.double() / counts_E.sum().clamp(min=1)).to(scores_TE)
    scores_TE = _normalised(scores_TE)
    if real is None:
        means_E = scores_TE.mean(0)
    else:
        means_E = torch.where(real.mask_T[:, None], scores_TE, 0.0).sum(0) / max(real.number, 1)
    return (parts_E * means_E).sum() * len(counts_E)


def _normalised(scores_TE: Tensor) -> Tensor:
    """A token's scores, to add up to one (DeepSeek-V3, equation 19)."""
    return scores_TE / scores_TE.sum(-1, keepdim=True)


def bias_steps(counts_S: Tensor, num_experts: int, settings: Settings, num_choices: int) -> Tensor:
    """What a step adds to a router's bias, float32 [E], from whole numbers of slots; the last of
    `counts_S` [E + 1] are those for experts that compute nothing.

    DeepSeek-V3 (2.1.2): rate * sign(mean_j c_j - c_i). Where there are experts that compute
    nothing, LongCat-Flash (arXiv 2509.01322): rate * (K_e / (K E) - c_i / all slots), which steers
    their part too; they keep their own bias.
    """
    rate, target = settings.bias_rate, settings.computing_choices
    assert rate is not None
    counts_E = counts_S[:num_experts]
    if target is None:
        return (counts_E.sum() - num_experts * counts_E).sign().to(torch.float32) * rate
    wanted = target / (num_choices * num_experts)
    parts_E = counts_E.double() / counts_S.sum().clamp(min=1)
    return (rate * (wanted - parts_E)).to(torch.float32)


@dataclass(frozen=True)
class Load:
    """How a step's slots were spread, the same on every worker. `counts` int64 [sites, E + 1]:
    slots for each expert of each site, and in the last column those for experts that compute
    nothing. `loss`: the mean weighted balance loss (None: the job has none). `num_tokens`: of the
    step."""

    counts: Tensor
    loss: float | None = None
    num_tokens: int = 0

    def row(self, whole: bool) -> dict[str, Any]:
        """For metrics.jsonl: the busiest expert's load over the mean, of each site and the worst;
        the part of each site's slots that its busiest experts took, as many as a token chooses;
        `whole`: all counts too."""
        sites = self._max_over_mean()
        load: dict[str, Any] = {"max_over_mean": sites, "worst": max(sites)}
        if self.num_tokens:
            load["busiest_share"] = self._busiest_share()
        if whole:
            load["counts"] = self.counts.tolist()
        row: dict[str, Any] = {"load": load}
        if self.loss is not None:
            row["balance_loss"] = self.loss
        return row

    def _busiest_share(self) -> list[float]:
        """1 where every token goes to the same experts."""
        computing, num_slots = self.counts[:, :-1].double(), int(self.counts[0].sum())
        num_busiest = min(max(num_slots // self.num_tokens, 1), computing.shape[1])
        busiest = computing.topk(num_busiest, dim=1).values.sum(1)
        shares = busiest / computing.sum(1).clamp(min=1)
        return [round(share, 4) for share in shares.tolist()]

    def _max_over_mean(self) -> list[float]:
        computing = self.counts[:, :-1].double()
        ratios = computing.max(1).values / computing.mean(1).clamp(min=1e-9)
        return [round(ratio, 4) for ratio in ratios.tolist()]


@dataclass(frozen=True)
class _Bias:
    """One router's bias. `values`: float32 [N], the same on every worker, which may compute with a
    copy in half precision."""

    site: int
    values: Tensor


class LoadBalance(StepHook):
    """One worker's part in balancing: adds the balance losses, and moves the biases after the
    update. `load`: that of the newest step."""

    def __init__(
        self,
        blueprint: ModelBlueprint,
        plan: Plan,
        world: World,
        replica: Replica,
        clock: Clock,
    ) -> None:
        """Collective. Raises `ModelError` when the model cannot be balanced as the job asks."""
        job = blueprint.job
        self._job = job
        self._plan = plan
        self._world = world
        self._replica = replica
        self._clock = clock
        # What routers do follows from the shapes of their tensors; the replica's need not be there.
        self._choosers = find_choosers(blueprint.model, blueprint.sites, job.router)
        self._has_loss = job.router.has_loss
        if self._has_loss and plan.workers[world.rank].lanes:
            watch(replica.model, self._choosers)
        self._biases = self._gather_biases() if job.router.bias_rate is not None else {}
        batch = job.batch
        num_sequences = batch.lanes * batch.microbatches * batch.microbatch_size
        # Of a step; None: it is not the same in every step, and counted.
        self._num_tokens = None if job.data.may_pad else num_sequences * job.data.sequence_length
        self._real_tokens = 0
        self._counts = self._no_counts()
        self._seen = self._no_counts()
        self._losses: dict[LossKey, Tensor] = {}
        self.load = Load(self._counts)

    def _no_counts(self) -> Tensor:
        num_columns = self._replica.cut.num_experts + 1
        return torch.zeros(len(self._replica.sites), num_columns, dtype=torch.int64)

    def begin_step(self, step: int) -> None:
        self._counts = self._no_counts()
        self._seen = self._no_counts()
        self._losses = {}
        self._real_tokens = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the step is computed once more: what it counts there is forgotten."""
        counts, seen, losses = self._counts, self._seen, self._losses
        real_tokens = self._real_tokens
        self._counts, self._seen, self._losses = self._no_counts(), self._no_counts(), {}
        yield
        self._counts, self._seen, self._losses = counts, seen, losses
        self._real_tokens = real_tokens

    def after_forward(
        self,
        microbatch: int,
        flights: Mapping[int, Flight],
        routings: Sequence[Mapping[int, Routing]],
    ) -> None:
        """Count a micro-batch's slots and add the balance loss to its flights. The global loss's
        counts are those of all lanes, of this micro-batch and of the step's earlier ones."""
        size = self._counts.shape[1]
        # Whole numbers: their sum is exact in any order, so a library may add them.
        real = {lane: flight.real for lane, flight in flights.items() if flight.real is not None}
        counts = torch.stack([_count(of_site, size, real) for of_site in routings])
        self._counts += counts
        for lane, routing in routings[0].items():
            self._real_tokens += real[lane].number if lane in real else routing.num_tokens
        if self._job.router.global_loss is not None:
            with self._clock.exchanging():
                self._seen += self._world.add_counts(counts, attention_only=True)
        if not self._has_loss:
            return
        for lane, flight in flights.items():
            with torch.enable_grad():
                loss = self._loss(flight)
            if loss.requires_grad:  # not where all that comes before every router is frozen
                flight.add_loss(loss)
            self._losses[lane, microbatch] = loss.detach()

    def after_update(self, result: StepResult) -> None:
        """Add up what all workers have counted, and move the biases."""
        counts = self._gather()
        for name, bias in self._biases.items():
            self._move(name, bias, counts)

    def update_skipped(self, result: StepResult) -> None:
        """Add up what all workers have counted; the biases stay, as all weights do."""
        self._gather()

    def metrics(self, whole: bool) -> dict[str, Any]:
        return self.load.row(whole)

    def _gather(self) -> Tensor:
        """The step's counts of all workers, int64 [sites, E + 1], which `load` then tells.
        Collective."""
        with self._clock.exchanging():
            counts, num_tokens = self._add_counts()
            loss = self._mean_loss() if self._has_loss else None
        self.load = Load(counts, loss, num_tokens)
        return counts

    def _add_counts(self) -> tuple[Tensor, int]:
        """The counts of all workers, and how many tokens they are of."""
        if self._num_tokens is not None:
            return self._world.add_counts(self._counts), self._num_tokens
        of_tokens = torch.zeros_like(self._counts[:1])
        of_tokens[0, 0] = self._real_tokens
        added = self._world.add_counts(torch.cat([self._counts, of_tokens]))
        return added[:-1], int(added[-1, 0])

    def _move(self, name: str, bias: _Bias, counts: Tensor) -> None:
        """A step of one bias, in every copy of it that this worker has."""
        num_experts = self._replica.cut.num_experts
        num_choices = self._choosers[bias.site].num_choices
        steps = bias_steps(counts[bias.site], num_experts, self._job.router, num_choices)
        # Every worker moves its own float32 copy by the same steps, so nothing needs to be sent.
        bias.values[:num_experts] += steps
        for tensors in (self._replica.masters, self._replica.dense):
            if name in tensors:
                kept = tensors[name]
                kept.copy_(bias.values.view(kept.shape))

    def _loss(self, flight: Flight) -> Tensor:
        """The weighted balance loss of one lane's micro-batch, summed over sites in their order."""
        logits_by_site = dict(flight.notes)
        sites = sorted(logits_by_site)
        total = self._site_loss(sites[0], logits_by_site[sites[0]], flight.real)
        for site in sites[1:]:
            total = total + self._site_loss(site, logits_by_site[site], flight.real)
        return total

    def _site_loss(self, site: int, logits: Tensor, real: RealTokens | None) -> Tensor:
        router, chooser = self._job.router, self._choosers[site]
        scores = chooser.scores(logits)
        if router.sequence_loss is not None:
            num_choices, num_sequences = chooser.num_choices, self._job.batch.microbatch_size
            mask_T = None if real is None else real.mask_T
            loss = sequence_loss(scores, num_choices, num_sequences, mask_T)
            return router.sequence_loss * loss
        assert router.global_loss is not None, "a job has one of the two losses"
        return router.global_loss * global_loss(scores, self._seen[site, :-1], real)

    def _mean_loss(self) -> float:
        """As the model's own loss is: every worker adds all losses in one order."""
        num_microbatches = self._job.batch.microbatches
        losses = {key: float(loss) for key, loss in self._losses.items()}
        keys = [loss_keys(w.lanes, num_microbatches) for w in self._plan.workers]
        everybody = gather_losses(self._world, losses, keys)
        return mean_loss(everybody, self._plan.num_lanes, num_microbatches)

    def _gather_biases(self) -> dict[str, _Bias]:
        """Every router's bias by tensor name, from its owner: other workers' copies may be in half
        precision. Collective."""
        sites: dict[str, int] = {}
        lengths: list[dict[str, int]] = [{} for _ in self._plan.workers]
        for site, chooser in enumerate(self._choosers):
            if chooser.bias is not None:
                sites[chooser.bias] = site
                lengths[self._plan.owners[chooser.bias]][chooser.bias] = chooser.num_experts
        owned = {name: self._replica.masters[name] for name in lengths[self._world.rank]}
        biases = gather_vectors(self._world, owned, lengths)
        return {name: _Bias(sites[name], values) for name, values in biases.items()}


def _count(routings: Mapping[int, Routing], size: int, real: Mapping[int, RealTokens]) -> Tensor:
    """Slots of all local lanes, int64 [size]: for each expert, and at the end for those that
    compute nothing. `real`: by lane, where there is padding, which is not counted."""
    counts = torch.zeros(size, dtype=torch.int64)
    for lane, routing in routings.items():
        if lane in real:
            counts += _count_real(routing, real[lane].mask_T)
            continue
        counts[:-1] += routing.counts_E
        if routing.identity_TK is not None:
            counts[-1] += int(routing.identity_TK.sum())
    return counts


def _count_real(routing: Routing, real_T: Tensor) -> Tensor:
    """Slots of one lane's real tokens, as of `_count`."""
    assert len(real_T) == routing.num_tokens, f"{len(real_T)} of {routing.num_tokens} tokens"
    real_R = real_T.index_select(0, routing.order_R // routing.num_choices)
    # Rows are sorted by expert: an expert's are those up to its last, without those before it.
    sums = torch.nn.functional.pad(real_R.to(torch.int64).cumsum(0), (1, 0))
    ends = torch.nn.functional.pad(routing.counts_E.cumsum(0), (1, 0)).to(sums.device)
    idle = torch.zeros_like(sums[:1])
    if routing.identity_TK is not None:
        idle += (routing.identity_TK & real_T[:, None]).sum()
    return torch.cat([sums[ends].diff(), idle]).cpu()
